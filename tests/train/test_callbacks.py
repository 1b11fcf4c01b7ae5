import types

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.data import Source
from tfcontrast.train import callbacks


class Clock:
    def __init__(self, patch):
        self.now = 100.0
        patch.setattr(callbacks.time, "perf_counter", lambda: self.now)


def model_of(**attributes):
    optimizer = types.SimpleNamespace(learning_rate=0.25, iterations=0)
    attributes = {"input_wait": types.SimpleNamespace(seconds=7.0)} | attributes
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


def test_the_share_of_the_wait_is_that_of_the_epochs_counted_steps(monkeypatch):
    clock, rates = Clock(monkeypatch), callbacks.Rates(10)
    model = model_of()
    rates.set_model(model)
    shares = []
    for epoch, waits in enumerate([[50.0, 0.5, 0.5], [0.0, 0.0, 0.0], [4.0, 4.0, 4.0]]):
        rates.on_epoch_begin(epoch)
        for step, seconds in enumerate(waits):
            model.input_wait.seconds += seconds
            clock.now += 4.0
            rates.on_train_batch_end(step)
        logs = {}
        rates.on_epoch_end(epoch, logs)
        shares.append(logs["input_wait_share"])
        model.input_wait.seconds += 90.0  # other loops of this model, between epochs
        clock.now += 500.0
    assert shares == [1 / 8, 0.0, 1.0]


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


def test_a_measurement_can_be_broken_off_between_batches():
    seen = []

    def between(logs):
        seen.append(dict(logs))
        if len(seen) == 3:
            raise KeyboardInterrupt

    monitor = callbacks.KnnMonitor(
        source_of(64, 0), source_of(31, 1), every=1, epochs=5, image_size=4, batch_size=16, k=1,
        temperature=0.1, between_batches=between,
    )  # fmt: skip
    batches = []
    monitor.set_model(model_of(embed=lambda images: tf.reshape(images, [-1, 48])))
    monitor._embed = lambda images: batches.append(len(images)) or tf.reshape(images, [-1, 48])
    monitor._embed.get_concrete_function = None
    logs = {"loss": 0.5}
    with pytest.raises(KeyboardInterrupt):
        monitor.on_epoch_end(0, logs)
    assert batches == [16, 16]
    assert seen == [{"loss": 0.5}] * 3
    assert logs == {"loss": 0.5}
    monitor.on_epoch_end(0, logs)
    assert 0 <= logs["monitor_knn_top1"] <= 1
    assert len(seen) == 3 + 4 + 2
