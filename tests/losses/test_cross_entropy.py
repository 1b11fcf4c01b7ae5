import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import cross_entropy


def _reference(logits, labels, smoothing):
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        shifted = row - row.max()
        log_p = shifted - np.log(np.exp(shifted).sum())
        target = np.full(len(row), smoothing / len(row))
        target[label] += 1 - smoothing
        total -= (target * log_p).sum()
    return total / len(labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("classes", [1, 2, 10])
def test_equals_a_float64_loop(smoothing, classes):
    rng = np.random.RandomState(0)
    logits, labels = rng.randn(7, classes) * 5, rng.randint(classes, size=7)
    loss = cross_entropy(tf.constant(logits), tf.constant(labels), label_smoothing=smoothing)
    assert float(loss) == pytest.approx(_reference(logits, labels, smoothing), abs=1e-12)


def test_equals_keras_with_smoothing():
    rng = np.random.RandomState(1)
    logits, labels = rng.randn(5, 3).astype("float32"), np.array([0, 1, 2, 1, 0])
    ours = cross_entropy(tf.constant(logits), tf.constant(labels), label_smoothing=0.1)
    theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)(
        keras.ops.one_hot(labels, 3), logits
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-6)


def test_huge_logits_stay_finite_with_their_gradient():
    logits = tf.constant([[1e4, -1e4], [-1e4, 1e4]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = cross_entropy(logits, tf.constant([1, 1]), label_smoothing=0.1)
    assert np.isfinite(float(loss))
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_bfloat16_is_lifted_to_float32():
    loss = cross_entropy(tf.zeros([2, 3], tf.bfloat16), tf.constant([0, 1]))
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(np.log(3), rel=1e-6)


@pytest.mark.parametrize(
    ("logits", "labels", "smoothing"),
    [([2, 3, 1], [2], 0.0), ([2, 3], [2, 1], 0.0), ([2, 3], [2], 1.0), ([2, 3], [2], -0.1)],
)
def test_bad_arguments_are_refused(logits, labels, smoothing):
    with pytest.raises(ValueError, match="Received"):
        cross_entropy(tf.zeros(logits), tf.zeros(labels, tf.int32), label_smoothing=smoothing)
