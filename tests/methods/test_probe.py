import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.methods.probe import train_probe
from tfcontrast.optim import SGD

RATE, CLASSES = 0.5, 3


def made(seed=0, views=2, batch=4, width=5):
    """Features [views * batch, width] and labels [batch]."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(views * batch, width)), rng.integers(0, CLASSES, batch)


def make_probe(width=5):
    probe = keras.layers.Dense(CLASSES, dtype="float32")
    probe.build((None, width))
    optimizer = SGD(RATE, momentum=0.0)
    optimizer.build(probe.trainable_variables)
    return probe, optimizer


def numpy_step(kernel, bias, features, labels):
    """Softmax regression by hand: loss, accuracy, and the parameters after one step."""
    logits = features @ kernel + bias
    exp = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = exp / exp.sum(1, keepdims=True)
    rows = np.arange(len(labels))
    loss = -np.log(probabilities[rows, labels]).mean()
    top1 = (logits.argmax(1) == labels).mean()
    error = probabilities.copy()
    error[rows, labels] -= 1
    error /= len(labels)
    return loss, top1, kernel - RATE * features.T @ error, bias - RATE * error.sum(0)


def run(probe, optimizer, features, labels):
    return train_probe(
        probe, optimizer, tf.constant(features, tf.float32), tf.constant(labels, tf.int64)
    )


@pytest.mark.parametrize("views", [1, 2, 3])
def test_a_step_is_numpys_with_every_view_labelled(views):
    features, labels = made(views=views)
    probe, optimizer = make_probe()
    kernel, bias = (v.numpy().astype(np.float64) for v in probe.trainable_variables)
    for _ in range(2):
        loss, top1, kernel, bias = numpy_step(kernel, bias, features, np.tile(labels, views))
        found = run(probe, optimizer, features, labels)
        assert list(found) == ["probe_loss", "probe_top1"]
        assert float(found["probe_loss"]) == pytest.approx(loss, rel=1e-5)
        assert float(found["probe_top1"]) == pytest.approx(top1)
        np.testing.assert_allclose(probe.kernel, kernel, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(probe.bias, bias, rtol=1e-4, atol=1e-6)
    assert int(optimizer.iterations) == 2


def test_labels_repeat_by_view_and_not_by_image():
    # two views of two images; the first channel says which image it is
    features = np.array([[1.0, 0.0], [-1.0, 0.0]] * 2)
    probe, optimizer = make_probe(width=2)
    probe.kernel.assign([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]])
    probe.bias.assign([0.0, 0.0, -9.0])
    assert float(run(probe, optimizer, features, np.array([0, 1]))["probe_top1"]) == 1.0


def test_no_gradient_reaches_what_made_the_features():
    encoder, (probe, optimizer) = tf.Variable(2.0), make_probe()
    features, labels = made()
    with tf.GradientTape() as tape:
        rows = tf.stop_gradient(encoder * tf.constant(features, tf.float32))
        found = train_probe(probe, optimizer, rows, tf.constant(labels))
    assert tape.gradient(found["probe_loss"], encoder) is None
    assert float(encoder) == 2.0
    assert np.any(probe.bias)


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_take_the_step_of_the_global_batch(strategy_of, replicas):
    features, labels = made(views=2, batch=8)
    strategy = strategy_of(replicas)
    alone, optimizer = make_probe()
    start = [v.numpy() for v in alone.trainable_variables]
    expected = run(alone, optimizer, features, labels)
    with strategy.scope():
        shared, together = make_probe()
        for variable, value in zip(shared.trainable_variables, start, strict=True):
            variable.assign(value)
    # every replica holds its images' views
    by_view = features.reshape(2, replicas, -1, 5)
    parts = by_view.transpose(1, 0, 2, 3).reshape(replicas, -1, 5).astype(np.float32)
    own_labels = labels.reshape(replicas, -1)

    def step():
        mine = distribute.replica_id()
        return train_probe(shared, together, tf.gather(parts, mine), tf.gather(own_labels, mine))

    found = strategy.run(tf.function(step))
    for name, value in expected.items():
        mean = np.mean([float(part) for part in found[name].values])
        assert mean == pytest.approx(float(value), rel=1e-5)
    for variable, other in zip(alone.trainable_variables, shared.trainable_variables, strict=True):
        np.testing.assert_allclose(other.numpy(), variable, rtol=1e-5, atol=1e-6)
