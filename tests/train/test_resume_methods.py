"""Every method goes on bit for bit: a run that stopped within an epoch ends as if it had not.

Queues, banks, centers, clusters, prototypes, slow copies, schedules and running metrics all lie in
the checkpoint; whatever does not is scrambled here before the run goes on. The network and the
options are those of the methods' own tests, so that a new method is here as soon as it is there.
"""

import dataclasses
import importlib.util
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import METHODS
from tfcontrast.methods.multi_crop import MultiCropConfig
from tfcontrast.train import build, checkpoints, loop
from tfcontrast.train.tensorboard import TensorBoard

STEPS, PER_EPOCH, BATCH = 10, 5, 16  # whole epochs, which are one call of fit
STOPS = (3, 6)  # within the first epoch and within the second, which is the last
SMALL_VIEWS = {
    "num_local_views": 1, "local_image_size": 6, "local_crop_area_min": 0.2,
    "local_crop_area_max": 0.5,
}  # fmt: skip


def _parts_of_method_tests():
    path = Path(__file__).parents[1] / "methods" / "conftest.py"
    spec = importlib.util.spec_from_file_location("method_parts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARTS = _parts_of_method_tests()


def without_times(logs):
    return {
        name: value
        for name, value in logs.items()
        if name not in ("examples_per_second", "input_wait_share")
    }


def at_step(folder, step):
    return checkpoints.read_arrays(folder / f"checkpoints/step_{step:08d}")


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.fixture(scope="module")
def run_whole(tiny_config, tmp_path_factory):
    """Trains a method without a break, with a checkpoint of every step."""

    def run(name):
        local = SMALL_VIEWS if issubclass(METHODS[name].Config, MultiCropConfig) else {}
        config = tiny_config(
            method=name,
            **{**PARTS.SMALL.get(name, {}), **local},
            train_batch_size=BATCH,
            train_steps=STEPS,
            warmup_epochs=0.4,
            monitor_epochs=0,
        )
        data = build.open_data(config)
        few = data.train.subset(np.arange(PER_EPOCH * BATCH))
        data = dataclasses.replace(data, train=few)
        folder = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "build_backbone", lambda *_: PARTS.TinyBackbone())
            patch.setattr(TensorBoard, "write_views", lambda *_args, **_options: None)
            method = build.build_method(config, data)
            result = loop.train(method, config, data, folder)
        return types.SimpleNamespace(
            folder=folder, config=config, method=method, data=data, result=result
        )

    return run


@pytest.fixture
def go_on(scramble, tmp_path):
    """Trains on from one of a run's checkpoints; gives the new folder and the result."""

    def run(whole, step):
        name = f"checkpoints/step_{step:08d}"
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / name).symlink_to(whole.folder / name, target_is_directory=True)
        scramble(whole.method)
        return tmp_path, loop.train(whole.method, whole.config, whole.data, tmp_path)

    return run


@pytest.fixture(scope="module", params=sorted(METHODS))
def whole(request, run_whole):
    return run_whole(request.param)


@pytest.mark.parametrize("step", STOPS)
def test_a_resumed_run_is_the_uninterrupted_one(whole, go_on, arrays_of, step):
    folder, resumed = go_on(whole, step)
    assert resumed["steps"] == STEPS
    assert resumed["skipped_steps"] == 0
    assert without_times(resumed["last_epoch"]) == without_times(whole.result["last_epoch"])
    assert_same(arrays_of(whole.method), at_step(whole.folder, STEPS))
    for later in range(step + 1, STEPS + 1):
        assert_same(at_step(folder, later), at_step(whole.folder, later))


class Forgetful(METHODS["simclr"]):
    """Counts its steps where no checkpoint looks, and weighs its loss by them."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.hidden = types.SimpleNamespace(steps=tf.Variable(0.0, trainable=False))

    def compute_losses(self, outputs, batch):
        found = super().compute_losses(outputs, batch)
        return {**found, "loss": found["loss"] * (1 + self.hidden.steps)}

    def after_update(self, outputs, batch):
        self.hidden.steps.assign_add(1)


def test_state_outside_of_the_checkpoint_is_found_out(run_whole, go_on, monkeypatch):
    monkeypatch.setitem(METHODS, "simclr", Forgetful)
    whole = run_whole("simclr")
    assert int(whole.method.hidden.steps) == STEPS
    folder, _ = go_on(whole, STOPS[0])
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        assert_same(at_step(folder, STEPS), at_step(whole.folder, STEPS))


@pytest.mark.parametrize("whole", ["nnclr"], indirect=True)
def test_every_step_is_another_state(whole):
    """So that a step too few or too many is seen."""
    for step in range(1, STEPS):
        now, then = at_step(whole.folder, step), at_step(whole.folder, step + 1)
        for name in ("backbone/conv1/kernel", "queue/rows", "queue/cursor"):
            assert np.any(now[name] != then[name]), (step, name)
        if step != PER_EPOCH:  # there the metrics start anew
            assert now["metrics/loss/1"] + 1 == then["metrics/loss/1"]
