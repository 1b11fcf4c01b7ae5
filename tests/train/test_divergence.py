import functools
import json
import logging
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints, loop, state

STEPS = 10
# Two epochs of five steps, every one saved, two bad ones in a row are too many.
OPTIONS = {"train_steps": STEPS, "max_bad_steps": 2, "monitor_epochs": 0, "summary_steps": 0}


def poison(patch, *steps):
    """Makes the last image of these steps (1 is the first) NaN: one of the last replica."""
    plain = data_lib.train_dataset

    def train_dataset(*args, start_step=0, share=(0, 1, 1), **options):
        fed = share[1]  # elements of a step, one a replica

        def spoil(place, batch):
            step, replica = start_step + place // fed + 1, place % fed
            bad = tf.reduce_any(step == tf.constant(steps, tf.int64)) & (replica == fed - 1)
            rows = tf.shape(batch["label"])[0]
            spoiled = bad & (tf.range(rows) == rows - 1)
            worth = tf.where(spoiled, float("nan"), 1.0)[:, None, None, None]
            return {**batch, "views": tuple(view * worth for view in batch["views"])}

        batches = plain(*args, start_step=start_step, share=share, **options)
        return batches.enumerate().map(spoil)

    patch.setattr(data_lib, "train_dataset", train_dataset)


@pytest.fixture
def poisoned(monkeypatch):
    return functools.partial(poison, monkeypatch)


@pytest.fixture(scope="module")
def trainer(tiny_config, build_run, arrays_of):
    """A function that trains the same method from its start, or from what a folder holds."""
    kept = {}

    def run(folder, strategy, **options):
        key = strategy.num_replicas_in_sync
        config = tiny_config(**{**OPTIONS, **options})
        if key not in kept:
            method, data = build_run(config, strategy)
            kept[key] = method, data, arrays_of(method)
        method, data, start = kept[key]
        checkpoints.restore(state.full_state(method), start, source="memory", whole=True)
        return method, loop.train(method, config, data, folder)

    return run


@pytest.fixture(scope="module")
def gone_back(trainer, tmp_path_factory):
    """The folder of a run whose steps 7 and 8 are bad, and its result."""
    folder = tmp_path_factory.mktemp("gone_back")
    with pytest.MonkeyPatch.context() as patch:
        poison(patch, 7, 8)
        return folder, trainer(folder, tf.distribute.get_strategy())[1]


def copy_steps(source, target, steps):
    for step in steps:
        name = f"checkpoints/step_{step:08d}"
        shutil.copytree(source / name, target / name)


def arrays_at(folder, step):
    return checkpoints.read_arrays(folder / f"checkpoints/step_{step:08d}")


def differing(first, second):
    assert first.keys() == second.keys()
    return {name for name in first if not np.array_equal(first[name], second[name])}


def counters(method):
    """The names of the step, the counts and the last rollback, by what they are."""
    names = {id(v): name for name, v in state.full_state(method).items()}
    return {
        f"{kind}/{v.name}": names[id(v)]
        for kind in ("optimizer", "probe_optimizer")
        for o in [getattr(method, kind)]
        for v in (o.iterations, o.bad_steps, o.bad_steps_in_a_row, o.last_rollback)
    }


def of_the_network(names):
    return {name for name in names if not name.startswith("metrics/")}


@pytest.mark.slow
def test_one_bad_step_is_told_and_counted(poisoned, trainer, strategy_of, caplog, tmp_path):
    poisoned(4)
    method, result = trainer(tmp_path, strategy_of(1))
    assert caplog.messages == [
        "step 4 was skipped: its gradient is not finite; weights and state stay as they were"
    ]
    assert result["skipped_steps"] == result["last_epoch"]["skipped_steps"] == 1
    assert np.isfinite(result["last_epoch"]["loss"])
    names = counters(method)
    changed = of_the_network(differing(arrays_at(tmp_path, 3), arrays_at(tmp_path, 4)))
    moved = {f"{kind}/{name}" for kind in ("optimizer", "probe_optimizer")
             for name in ("iteration", "bad_steps", "bad_steps_in_a_row")}  # fmt: skip
    assert changed == {names[name] for name in moved}


def test_a_whole_run_says_nothing(trainer, strategy_of, caplog, tmp_path):
    _, result = trainer(tmp_path, strategy_of(1))
    assert not caplog.messages
    assert result["skipped_steps"] == 0
    assert "skipped_steps" not in result["last_epoch"]


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_several_in_a_row_go_back_and_the_data_goes_on(
    poisoned, trainer, strategy_of, caplog, tmp_path, replicas
):
    poisoned(5, 7, 8)
    strategy = strategy_of(replicas)
    method, result = trainer(tmp_path, strategy)
    assert caplog.messages == [
        "step 5 was skipped: its gradient is not finite; weights and state stay as they were",
        "step 7 was skipped: its gradient is not finite; weights and state stay as they were",
        "the steps 7 to 8 had no finite gradient: weights and state go back to step_00000005; data "
        "and schedule go on after step 8",
    ]
    assert result["skipped_steps"] == 3
    names = counters(method)
    # step 6 is as new as the weights that failed, so step 5 comes back, but not its count
    back = arrays_at(tmp_path, 8)
    changed = of_the_network(differing(arrays_at(tmp_path, 5), back))
    assert changed == {
        names[name]
        for name in (
            "optimizer/iteration", "optimizer/bad_steps", "optimizer/bad_steps_in_a_row",
            "optimizer/last_rollback", "probe_optimizer/iteration", "probe_optimizer/bad_steps",
            "probe_optimizer/bad_steps_in_a_row",
        )
    }  # fmt: skip
    assert any(name.startswith("backbone/") for name in differing(arrays_at(tmp_path, 6), back))
    values = {name: int(back[key]) for name, key in names.items()}
    assert values["optimizer/iteration"] == values["probe_optimizer/iteration"] == 8
    assert values["optimizer/last_rollback"] == 8
    assert values["optimizer/bad_steps"] == values["probe_optimizer/bad_steps"] == 3
    assert values["optimizer/bad_steps_in_a_row"] == 0
    assert values["probe_optimizer/bad_steps_in_a_row"] == 0
    final = arrays_at(tmp_path, STEPS)
    assert int(final[names["optimizer/iteration"]]) == STEPS
    assert all(np.isfinite(value).all() for value in final.values())
    for variable in state.full_state(method).values():
        held = [v.numpy() for v in getattr(variable.value, "values", (variable.value,))]
        assert len(held) == replicas
        for copy in held[1:]:
            np.testing.assert_array_equal(copy, held[0])


@pytest.mark.slow
@pytest.mark.parametrize("step", [7, 8])  # between the bad steps, right after the rollback
def test_a_run_resumed_around_a_rollback_is_the_uninterrupted_one(
    gone_back, poisoned, trainer, strategy_of, tmp_path, step
):
    poisoned(7, 8)
    copy_steps(gone_back[0], tmp_path, range(4, step + 1))
    _, result = trainer(tmp_path, strategy_of(1))
    assert not differing(arrays_at(gone_back[0], STEPS), arrays_at(tmp_path, STEPS))
    assert result["skipped_steps"] == 2


@pytest.mark.slow
def test_the_same_again_ends_the_run(poisoned, trainer, strategy_of, tmp_path):
    poisoned(6, 7, 9, 10)
    with pytest.raises(UserError) as info:
        trainer(tmp_path, strategy_of(1))
    text = str(info.value)
    assert text.startswith(
        "the steps 9 to 10 had no finite gradient, as before step 7, after which"
    )
    assert "there is no newer checkpoint" in text
    for flag in ("--learning_rate", "--warmup_epochs", "--clip_norm", "--precision=float32"):
        assert flag in text
    assert "\n" not in text
    # and the same command ends the same way
    with pytest.raises(UserError, match="the steps 9 to 10 had no finite gradient, as before"):
        trainer(tmp_path, strategy_of(1))


@pytest.mark.slow
def test_progress_in_between_allows_another_rollback(
    poisoned, trainer, strategy_of, caplog, tmp_path
):
    poisoned(4, 5, 9, 10)
    trainer(tmp_path, strategy_of(1))
    told = [text for text in caplog.messages if "go back" in text]
    names = [text.split("go back to ")[1].partition(";")[0] for text in told]
    assert names == ["step_00000002", "step_00000007"]


def test_without_a_checkpoint_the_run_ends(poisoned, trainer, strategy_of, tmp_path):
    poisoned(2, 3)
    with pytest.raises(UserError, match="there is no checkpoint from before to go back to; lower"):
        trainer(tmp_path, strategy_of(1))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(
    gone_back, poisoned, trainer, strategy_of, caplog, tmp_path
):
    poisoned(7, 8)
    copy_steps(gone_back[0], tmp_path, range(1, 6))
    manifest = tmp_path / "checkpoints/step_00000005/manifest.json"
    kept = manifest.read_text()
    # the run starts from step 5; then a fault of the disk
    original = checkpoints.write_checkpoint

    def write(*args, step, **options):
        if step == 7:
            manifest.write_text(kept[:-30])
        return original(*args, step=step, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "write_checkpoint", write)
        trainer(tmp_path, strategy_of(1))
    assert "step_00000005 is not a whole checkpoint" in caplog.text
    assert "go back to step_00000004; data" in caplog.text


@pytest.mark.slow
def test_only_the_chief_tells(
    gone_back, poisoned, trainer, strategy_of, caplog, monkeypatch, tmp_path
):
    poisoned(7, 8)
    copy_steps(gone_back[0], tmp_path, range(1, 7))
    caplog.clear()
    monkeypatch.setattr(loop.distribute, "is_chief", lambda strategy: False)
    with caplog.at_level(logging.WARNING):
        _, result = trainer(tmp_path, strategy_of(1))
    assert not caplog.messages
    assert result["skipped_steps"] == gone_back[1]["skipped_steps"]


WORKER = """
import json, pathlib, sys
import numpy as np
from tfcontrast import distribute
strategy = distribute.make_strategy("multi_worker")  # before TensorFlow is used
import tensorflow as tf
from tfcontrast import data as data_lib
import plain_views
from tfcontrast.train import build, loop, state
from tfcontrast.train.options import make_config
def train_dataset(*args, start_step=0, share, **options):
    def spoil(place, batch):
        bad = (share[0] == 1) & (start_step + place >= 6) & (start_step + place < 8)
        worth = tf.where(bad, float("nan"), 1.0)
        return {**batch, "views": tuple(view * worth for view in batch["views"])}
    batches = plain_views.plain_dataset(*args, start_step=start_step, share=share, **options)
    return batches.enumerate().map(spoil)

data_lib.train_dataset = train_dataset
config = make_config(json.loads(sys.argv[1]))
data = build.open_data(config)
with strategy.scope():
    method = build.build_method(config, data)
result = loop.train(method, config, data, pathlib.Path(sys.argv[2]))
np.savez(sys.argv[3], **state.values(state.full_state(method)))
print(result["skipped_steps"])
"""


@pytest.mark.slow
def test_two_workers_go_back_to_the_same_checkpoint(tiny_config, start_workers, tmp_path):
    options = {**OPTIONS, "train_steps": 9, "checkpoint_steps": 2, "keep_checkpoint_max": 2}
    files = (tmp_path / "run", tmp_path / "worker{worker}.npz")
    (tmp_path / "run").mkdir()
    workers = start_workers(2, WORKER, json.dumps(tiny_config(**options).to_dict()), *files)
    outputs = [worker.communicate(timeout=900) for worker in workers]
    for worker, (said, errors) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, errors[-4000:]
        assert said.splitlines()[-1] == "2"
    assert "the steps 7 to 8 had no finite gradient" in outputs[0][1]
    assert "go back to step_00000004; data" in outputs[0][1]
    assert "gradient" not in outputs[1][1]
    first, second = (dict(np.load(tmp_path / f"worker{index}.npz")) for index in (0, 1))
    assert not differing(first, second)
    assert not differing(first, arrays_at(tmp_path / "run", 9))
    assert all(np.isfinite(value).all() for value in first.values())
    # what was saved at step 8, after the rollback, is step 4 with another step and other counts
    assert not (tmp_path / "run/checkpoints/step_00000004").exists()
