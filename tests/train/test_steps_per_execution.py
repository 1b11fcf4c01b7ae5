"""Runs whose host looks up every few steps only are those of single steps, bit for bit."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import METHODS
from tfcontrast.train import checkpoints, loop

# 15 steps, 5 an epoch: of up to 7 steps 5 are taken at once.
OPTIONS = {
    "monitor_epochs": 0, "train_steps": 15, "checkpoint_steps": 5, "keep_checkpoint_max": 9,
}  # fmt: skip


class Counted(METHODS["simclr"]):
    """SimCLR that counts how often its step is traced."""

    traces = 0

    def train_step(self, batch):
        self.traces += 1
        return super().train_step(batch)


@pytest.fixture(scope="module")
def run(tiny_config, build_run, tmp_path_factory):
    """Trains with some steps an execution, from a folder's checkpoint if there is one."""

    def train(most, folder=None):
        folder = folder or tmp_path_factory.mktemp("run")
        config = tiny_config(**OPTIONS, steps_per_execution=most)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(METHODS, "simclr", Counted)
            method, data = build_run(config, tf.distribute.get_strategy())
        loop.train(method, config, data, folder)
        return folder, method

    return train


def test_every_checkpoint_is_the_same_and_the_step_is_traced_once(run, tmp_path):
    (single, _), (joined, method) = run(1), run(7)
    assert method.steps_per_execution == 5
    assert method.traces == 1
    for step in (5, 10, 15):
        name = f"checkpoints/step_{step:08d}"
        first, second = (checkpoints.read_arrays(folder / name) for folder in (single, joined))
        assert first.keys() == second.keys()
        for key, value in first.items():
            np.testing.assert_array_equal(value, second[key], err_msg=f"{step}: {key}")
    # A run goes on from where the other stopped, whatever its number.
    (tmp_path / "checkpoints").mkdir()
    (joined / "checkpoints/step_00000010").rename(tmp_path / "checkpoints/step_00000010")
    resumed, _ = run(1, tmp_path)
    last = "checkpoints/step_00000015"
    first, second = (checkpoints.read_arrays(folder / last) for folder in (single, resumed))
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)
