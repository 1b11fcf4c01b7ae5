"""Every method goes on bit for bit: a run that stopped within an epoch ends as if it had not.

Queues, banks, centers, prototypes, slow copies, schedules and running metrics all lie in the
checkpoint; what does not, ends up elsewhere here.
"""

import types

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import METHODS
from tfcontrast.train import checkpoints, loop
from tfcontrast.train.tensorboard import TensorBoard

STEPS, PER_EPOCH = 8, 5
STOPS = (3, 6)  # within the first epoch and within the second, which is the last
# Options that keep a method's run small; it is seen by name, so a method that is not here runs too.
SMALL_HEADS = {"proj_hidden_dim": 16, "proj_out_dim": 8, "pred_hidden_dim": 16}
TINY = {
    "byol": SMALL_HEADS,
    "instdisc": {"proj_out_dim": 8, "instance_loss": "nce", "num_negatives": 16},
    "nnclr": {**SMALL_HEADS, "queue_size": 160},
}


def without_times(logs):
    return {name: value for name, value in logs.items() if name != "examples_per_second"}


def at_step(folder, step):
    return checkpoints.read_arrays(folder / f"checkpoints/step_{step:08d}")


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.fixture(scope="module", params=sorted(METHODS))
def whole(request, tiny_config, build_run, tmp_path_factory):
    """A method's uninterrupted run, with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp(request.param)
    config = tiny_config(
        method=request.param,
        **TINY.get(request.param, {}),
        train_steps=STEPS,
        warmup_epochs=0.4,
        monitor_epochs=0,
    )
    method, data = build_run(config, tf.distribute.get_strategy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorBoard, "write_views", lambda *_args, **_options: None)  # traces them
        result = loop.train(method, config, data, folder)
    return types.SimpleNamespace(
        folder=folder, config=config, method=method, data=data, result=result
    )


@pytest.mark.parametrize("step", STOPS)
def test_a_resumed_run_is_the_uninterrupted_one(whole, arrays_of, scramble, tmp_path, step):
    name = f"checkpoints/step_{step:08d}"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / name).symlink_to(whole.folder / name, target_is_directory=True)
    scramble(whole.method)  # whatever is not restored is wrong now
    resumed = loop.train(whole.method, whole.config, whole.data, tmp_path)
    assert resumed["steps"] == STEPS
    assert without_times(resumed["last_epoch"]) == without_times(whole.result["last_epoch"])
    assert_same(arrays_of(whole.method), at_step(whole.folder, STEPS))
    for later in range(step + 1, STEPS + 1):
        assert_same(at_step(tmp_path, later), at_step(whole.folder, later))


def test_every_step_moves_the_state(whole):
    """So that the comparison sees a step too few or too many."""
    for step in range(1, STEPS):
        now, then = at_step(whole.folder, step), at_step(whole.folder, step + 1)
        if step % PER_EPOCH:  # the metrics start anew
            assert now["metrics/loss/1"] + 1 == then["metrics/loss/1"]
        still = {name for name in now if np.array_equal(now[name], then[name])}
        parts = {name.split("/")[0] for name in now} - {"optimizer", "probe_optimizer"}
        moved = {name.split("/")[0] for name in now.keys() - still}
        assert parts - moved <= {"log_normalizer"}, "InstDisc's, measured once"


def test_the_table_names_methods_that_exist():
    assert TINY.keys() <= METHODS.keys()
