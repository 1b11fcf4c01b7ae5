import types

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.data import Source
from tfcontrast.errors import UserError
from tfcontrast.train import callbacks, checkpoints


class Clock:
    def __init__(self, patch):
        self.now = 100.0
        patch.setattr(callbacks.time, "perf_counter", lambda: self.now)


def model_of(**attributes):
    optimizer = types.SimpleNamespace(learning_rate=0.25, iterations=0)
    return types.SimpleNamespace(steps_per_execution=1, optimizer=optimizer, **attributes)


def test_rates_leave_tracing_and_pauses_out(monkeypatch):
    clock, rates = Clock(monkeypatch), callbacks.Rates(10)
    rates.set_model(model_of())
    assert rates.mean is None
    seen = []
    for epoch, steps in enumerate([[60.0, 1.0, 1.0], [2.0, 2.0, 2.0]]):
        rates.on_epoch_begin(epoch)
        for step, seconds in enumerate(steps):
            clock.now += seconds
            rates.on_train_batch_end(step)
        logs = {}
        rates.on_epoch_end(epoch, logs)
        seen.append(logs)
        clock.now += 500.0  # the monitor
    assert [logs["examples_per_second"] for logs in seen] == [10.0, 5.0]
    assert [logs["learning_rate"] for logs in seen] == [0.25, 0.25]
    assert rates.mean == pytest.approx(50 / 8)


def test_one_step_has_no_rate(monkeypatch):
    clock, rates = Clock(monkeypatch), callbacks.Rates(10)
    rates.set_model(model_of())
    rates.on_epoch_begin(0)
    clock.now += 60
    rates.on_train_batch_end(0)
    logs = {}
    rates.on_epoch_end(0, logs)
    assert logs == {"learning_rate": 0.25}
    assert rates.mean is None


def source_of(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 90, [count, 4, 4, 3]) + 60 * labels[:, None, None, None]
    return Source(
        name="made", split="train", num_examples=count, num_classes=3,
        labels=labels.astype(np.int64), images=images.astype(np.uint8),
    )  # fmt: skip


def nearest_neighbour_accuracy(bank, queries):
    """1-NN by cosine, in float64."""
    unit = []
    for source in (bank, queries):
        rows = source.images.reshape(source.num_examples, -1) / 255.0 - 0.5
        unit.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    found = bank.labels[(unit[1] @ unit[0].T).argmax(1)]
    return np.mean(found == queries.labels)


def test_the_monitor_measures_held_out_images_in_its_epochs():
    bank, held_out = source_of(40, 0), source_of(31, 1)
    traces = []

    def embed(images):
        traces.append(images.shape)
        return tf.reshape(images - 0.5, [-1, 48])

    monitor = callbacks.KnnMonitor(
        bank, held_out, every=2, epochs=5, image_size=4, batch_size=16, k=1, temperature=0.1
    )
    monitor.set_model(model_of(embed=embed))
    measured = {}
    for epoch in range(5):
        logs = {}
        monitor.on_epoch_end(epoch, logs)
        if logs:
            measured[epoch + 1] = logs.pop("monitor_knn_top1")
        assert not logs
    expected = nearest_neighbour_accuracy(bank, held_out)
    assert 0.4 < expected < 1
    assert measured == {epoch: pytest.approx(expected) for epoch in (2, 4, 5)}
    assert len(traces) == 1


def test_a_large_bank_is_thinned_evenly(monkeypatch):
    source = source_of(100, 0)
    few = callbacks._thin(source, 10)
    np.testing.assert_array_equal(few.labels, source.labels[np.arange(10) * 11])
    assert callbacks._thin(source, 100) is source


@pytest.fixture
def saver(monkeypatch, tmp_path):
    """Drives the callback through epochs of 4 steps; records what it writes."""
    written, logbook = [], {}

    def write(folder, arrays, *, step, config, logs):
        if step in logbook.get("full", ()):
            raise OSError(28, "No space left on device")
        written.append(step)
        logbook[step] = dict(logs)

    monkeypatch.setattr(checkpoints, "write_checkpoint", write)
    monkeypatch.setattr(checkpoints, "prune_checkpoints", lambda folder, keep: None)
    monkeypatch.setattr(callbacks.state, "full_state", lambda model: {})

    def run(*, every, last, first=0, full=()):
        logbook["full"] = full
        callback = callbacks.Checkpoints(tmp_path, {}, every=every, keep=2, last_step=last)
        model = model_of()
        model.optimizer.iterations = first
        callback.set_model(model)
        step = first
        while step < last:
            steps = min(4 - step % 4, last - step)
            callback.set_params({"steps": steps})
            callback.on_train_begin()
            for batch in range(steps):
                step = step + 1
                model.optimizer.iterations = step
                callback.on_train_batch_end(batch, {"loss": tf.constant(0.5)})
            callback.on_epoch_end(step // 4, {"loss": 0.5, "knn": np.float32(0.25)})
            callback.on_train_end()
        return written, logbook

    return run


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every": 4, "last": 8}, [4, 8]),
        ({"every": 3, "last": 10}, [3, 6, 9, 10]),
        ({"every": 3, "last": 10, "first": 5}, [6, 9, 10]),
        ({"every": 100, "last": 6}, [6]),
        ({"every": 1, "last": 3}, [1, 2, 3]),
    ],
)
def test_checkpoints_come_in_time_and_once(saver, options, steps):
    written, logbook = saver(**options)
    assert written == steps
    for step in steps:
        ends_an_epoch = step % 4 == 0 or step == options["last"]
        assert logbook[step] == ({"loss": 0.5, "knn": 0.25} if ends_an_epoch else {})


def test_a_full_disk_does_not_end_the_training(saver, caplog):
    written, _ = saver(every=2, last=8, full=(4, 6))
    assert written == [2, 8]
    assert caplog.text.count("training goes on, older checkpoints are untouched") == 2


def test_a_full_disk_at_the_end_is_told(saver):
    with pytest.raises(UserError, match=r"the last checkpoint could not be written to .* free"):
        saver(every=2, last=8, full=(8,))
