import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.optim import LAMB, Adam, AdamW, RMSprop

RATE = 0.05


def run(optimizer, weight, gradients):
    variable = keras.Variable(np.array(weight, np.float32), name="w")
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, tf.float32)])
    return variable.numpy()


def adam(weight, gradients, *, coupled=0.0, decoupled=0.0, inside=0.0, ratio=False, epsilon=1e-7):
    """Adam, AdamW and LAMB by their papers' formulas, in float64."""
    w = np.array(weight, np.float64)
    m, s = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(np.array(gradients, np.float64), 1):
        g = g + coupled * w
        w = w - RATE * decoupled * w
        m = 0.9 * m + 0.1 * g
        s = 0.999 * s + 0.001 * g * g
        u = (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + epsilon) + inside * w
        wn, un = np.linalg.norm(w), np.linalg.norm(u)
        w = w - RATE * (wn / un if ratio and wn > 0 and un > 0 else 1.0) * u
    return w


def rmsprop(weight, gradients, *, decay, rho=0.9, momentum=0.9, epsilon=1e-7):
    w = np.array(weight, np.float64)
    s, v = np.zeros_like(w), np.zeros_like(w)
    for g in np.array(gradients, np.float64):
        g = g + decay * w
        s = rho * s + (1 - rho) * g * g
        v = momentum * v + RATE * g / np.sqrt(s + epsilon)
        w = w - v
    return w


def draws(shape=(3, 4)):
    rng = np.random.default_rng(3)
    return rng.normal(size=shape), rng.normal(size=(5, *shape))


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_adam_couples_and_adamw_decouples_the_decay(decay):
    weight, gradients = draws()
    coupled = run(Adam(RATE, weight_decay=decay), weight, gradients)
    np.testing.assert_allclose(
        coupled, adam(weight, gradients, coupled=decay), rtol=1e-4, atol=1e-5
    )
    decoupled = run(AdamW(RATE, weight_decay=decay), weight, gradients)
    np.testing.assert_allclose(
        decoupled, adam(weight, gradients, decoupled=decay), rtol=1e-4, atol=1e-5
    )
    assert (np.abs(coupled - decoupled).max() > 1e-3) == (decay > 0)


def test_adamw_equals_keras():
    weight, gradients = draws()
    theirs = run(keras.optimizers.AdamW(RATE, weight_decay=0.2), weight, gradients)
    np.testing.assert_allclose(
        run(AdamW(RATE, weight_decay=0.2), weight, gradients), theirs, rtol=1e-5
    )


def test_rmsprop_equals_its_formula():
    weight, gradients = draws()
    result = run(RMSprop(RATE, weight_decay=0.2, rho=0.9, momentum=0.9), weight, gradients)
    np.testing.assert_allclose(result, rmsprop(weight, gradients, decay=0.2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_lamb_equals_the_papers_algorithm(decay):
    weight, gradients = draws()
    expected = adam(weight, gradients, inside=decay, ratio=True, epsilon=1e-6)
    result = run(LAMB(RATE, weight_decay=decay), weight, gradients)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_lamb_without_decay_equals_keras():
    weight, gradients = draws()
    theirs = run(keras.optimizers.Lamb(RATE, epsilon=1e-6), weight, gradients)
    np.testing.assert_allclose(run(LAMB(RATE), weight, gradients), theirs, rtol=1e-4, atol=1e-6)


def test_lamb_at_zero_norms():
    weight, gradients = draws()
    expected = adam(np.zeros_like(weight), gradients, ratio=True, epsilon=1e-6)
    np.testing.assert_allclose(
        run(LAMB(RATE), np.zeros_like(weight), gradients), expected, rtol=1e-4, atol=1e-5
    )
    still = run(LAMB(RATE), weight, np.zeros_like(gradients))
    np.testing.assert_array_equal(still, weight.astype(np.float32))


def test_vectors_are_left_alone_by_lamb_only():
    weight, gradients = draws(shape=(6,))
    result = run(LAMB(RATE, weight_decay=0.2), weight, gradients)
    np.testing.assert_allclose(result, adam(weight, gradients, epsilon=1e-6), rtol=1e-4, atol=1e-5)
    result = run(AdamW(RATE, weight_decay=0.2), weight, gradients)
    np.testing.assert_allclose(result, adam(weight, gradients, decoupled=0.2), rtol=1e-4, atol=1e-5)
    excluded = AdamW(RATE, weight_decay=0.2, exclude_from_decay=("bias", "norm"))
    result = run(excluded, weight, gradients)
    np.testing.assert_allclose(result, adam(weight, gradients), rtol=1e-4, atol=1e-5)
