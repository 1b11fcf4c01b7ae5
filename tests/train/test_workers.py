"""Two processes on this machine train as one does."""

import json

import numpy as np
import pytest

from tfcontrast.train import checkpoints, loop

OPTIONS = {"train_steps": 3, "monitor_epochs": 2, "checkpoint_steps": 2}

WORKER = """
import json, pathlib, sys
import numpy as np
from tfcontrast import distribute
strategy = distribute.make_strategy("multi_worker")  # before TensorFlow is used
from tfcontrast.train import build, loop, state
from tfcontrast.train.options import make_config
import plain_views
plain_views.use()
config = make_config(json.loads(sys.argv[1]))
data = build.open_data(config)
with strategy.scope():
    method = build.build_method(config, data)
folder = pathlib.Path(sys.argv[2])
result = loop.train(method, config, data, folder)
np.savez(sys.argv[3], **state.values(state.full_state(method)))
print(json.dumps([distribute.is_chief(strategy), result["last_epoch"]]))
"""


@pytest.mark.slow
def test_two_workers_equal_one_process(
    tiny_config, build_run, strategy_of, start_workers, tmp_path
):
    config = tiny_config(**OPTIONS)
    method, data = build_run(config, strategy_of(1))
    (tmp_path / "one").mkdir()
    expected = loop.train(method, config, data, tmp_path / "one")["last_epoch"]
    one = checkpoints.read_arrays(tmp_path / "one/checkpoints/step_00000003")

    (tmp_path / "run").mkdir()
    options = json.dumps(config.to_dict())
    files = (tmp_path / "run", tmp_path / "worker{worker}.npz")
    workers = start_workers(2, WORKER, options, *files)
    outputs = [worker.communicate(timeout=900) for worker in workers]
    for worker, (_, errors) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, errors[-4000:]
    said = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert [chief for chief, _ in said] == [True, False]
    assert len(outputs[1][0].splitlines()) == 1  # only the chief shows progress
    assert len(list((tmp_path / "run").glob("events.*"))) == 1
    two = checkpoints.read_arrays(tmp_path / "run/checkpoints/step_00000003")
    states = [dict(np.load(tmp_path / f"worker{index}.npz")) for index in (0, 1)]
    assert one.keys() == two.keys() == states[0].keys()
    for name, value in one.items():
        # Adam takes whole steps where the probe's gradient cancels to rounding
        atol = 2e-4 * np.abs(value).max(initial=0.1 if name.startswith("probe") else 1e-3)
        np.testing.assert_allclose(two[name], value, 0, atol, err_msg=name)
        for state in states:
            np.testing.assert_array_equal(state[name], two[name], err_msg=name)
    for _, logs in said:
        for name in ("loss", "probe_loss", "contrastive_entropy", "feature_std"):
            assert logs[name] == pytest.approx(expected[name], rel=1e-4)


BETWEEN_EPOCHS = """
class Orders(METHODS["simclr"]):
    reorders = True

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.order = self.add_weight(
            shape=[self.plan.num_examples], dtype="int64", initializer="zeros", trainable=False,
            name="order",
        )

    def begin_epoch(self, epoch, run_over):
        order = np.argsort(run_over(self.embed)[:, 2], kind="stable")
        self.order.assign(order if distribute.is_chief(strategy) else order[::-1])

    def epoch_order(self, epoch):
        return self.order.numpy()[: self.plan.steps_per_epoch * self.plan.batch_size]

METHODS["simclr"] = Orders
"""


@pytest.mark.slow
def test_between_epochs_all_workers_go_on_with_the_chiefs_state(
    tiny_config, start_workers, tmp_path
):
    """The second of two finds another order than the chief."""
    config = tiny_config(train_steps=7, checkpoint_steps=5, monitor_epochs=0)
    (tmp_path / "run").mkdir()
    options = json.dumps(config.to_dict())
    files = (tmp_path / "run", tmp_path / "worker{worker}.npz")
    script = WORKER.replace(
        "config = make",
        "from tfcontrast.methods import METHODS\n" + BETWEEN_EPOCHS + "config = make",
    )
    for worker in start_workers(2, script, options, *files):
        _, errors = worker.communicate(timeout=900)
        assert worker.returncode == 0, errors[-4000:]
    first, second = (dict(np.load(tmp_path / f"worker{index}.npz")) for index in (0, 1))
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value, err_msg=name)
    saved = checkpoints.read_arrays(tmp_path / "run/checkpoints/step_00000005")
    assert sorted(saved["order"]) == sorted(first["order"]) == list(range(len(saved["order"])))
    assert np.any(saved["order"] != first["order"])
