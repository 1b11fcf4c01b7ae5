import logging

import keras
import numpy as np
import tensorflow as tf

from tfcontrast.train import loop, profiling
from tfcontrast.train.profiling import Profile


def test_a_window_is_recorded_and_changes_nothing(
    tiny_config, build_run, strategy_of, arrays_of, tmp_path, monkeypatch
):
    monkeypatch.setattr(profiling, "SETTLING", 2)
    ends = []
    for steps in (0, 3):
        config = tiny_config(train_steps=6, monitor_epochs=0, profile=steps)
        method, data = build_run(config, strategy_of(1))
        loop.train(method, config, data, tmp_path / str(steps))
        ends.append(arrays_of(method))
    assert not list((tmp_path / "0").rglob("*.xplane.pb"))
    (record,) = (tmp_path / "3" / "plugins" / "profile").rglob("*.xplane.pb")
    assert b"train_function" in record.read_bytes()
    for name, value in ends[0].items():
        np.testing.assert_array_equal(ends[1][name], value)


class Calls:
    """What stands in for the profiler."""

    def __init__(self, monkeypatch):
        self.made = []
        for name in ("start", "stop"):

            def note(*_, name=name):
                return self.made.append((name, self.step))

            monkeypatch.setattr(tf.profiler.experimental, name, note)
        self.step = 0

    def train(self, callback, steps):
        callback.set_model(keras.Model())
        callback.model.steps_per_execution = 1
        for self.step in range(1, steps + 1):
            callback.on_train_batch_begin(0)
            callback.on_train_batch_end(0)
        self.step = "end"
        callback.close()


def test_the_window_lies_after_the_first_ten_steps(monkeypatch, tmp_path):
    calls = Calls(monkeypatch)
    calls.train(Profile(tmp_path, 4), 30)
    assert calls.made == [("start", 11), ("stop", 14)]


def test_a_training_that_ends_in_the_window_closes_it(monkeypatch, tmp_path):
    calls = Calls(monkeypatch)
    calls.train(Profile(tmp_path, 4), 12)
    assert calls.made == [("start", 11), ("stop", "end")]


def test_a_training_that_is_too_short_is_told(monkeypatch, tmp_path, caplog):
    calls = Calls(monkeypatch)
    with caplog.at_level(logging.WARNING):
        calls.train(Profile(tmp_path, 4), 7)
    assert calls.made == []
    assert "begins after 10 steps of a session, and there were 7" in caplog.text
