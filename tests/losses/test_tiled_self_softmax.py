import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses.tiled_self_softmax import one_shift_serves, tiled_self_softmax
from tfcontrast.losses.unit_rows import unit_rows

UPSTREAM = np.random.default_rng(1).normal(size=100)


def rows_of(count, d=5):
    rows = np.random.default_rng(count).normal(size=(count, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def reference(u, t):
    """Rows' log-sum-exp over the others, and its gradient, number by number."""
    values, du = np.zeros(len(u)), np.zeros_like(u)
    for i in range(len(u)):
        others = [j for j in range(len(u)) if j != i]
        exponentials = np.exp([u[i] @ u[j] / t for j in others])
        values[i] = np.log(exponentials.sum())
        for j, e in zip(others, exponentials, strict=True):
            share = UPSTREAM[i] * e / exponentials.sum() / t
            du[i] += share * u[j]
            du[j] += share * u[i]
    return values, du


def weighted(u, t):
    out = tiled_self_softmax(u, temperature=t)
    return tf.reduce_sum(out * tf.constant(UPSTREAM[: u.shape[0]], u.dtype))


@pytest.mark.parametrize("count", [2, 4, 7, 8, 13])
@pytest.mark.parametrize("temperature", [0.03, 0.1, 2.0])
def test_value_and_gradient_are_those_of_the_loop(
    small_tiles, value_and_gradients, count, temperature
):
    u = rows_of(count)
    values, du = reference(u, temperature)
    out = tiled_self_softmax(tf.constant(u), temperature=temperature)
    np.testing.assert_allclose(out, values, atol=1e-11)
    _, found = value_and_gradients(lambda x: weighted(x, temperature), u)
    np.testing.assert_allclose(found, du, atol=1e-10)


@pytest.mark.parametrize("compiled", ["graph", "xla"])
def test_compiled_equals_the_loop_in_float32(small_tiles, value_and_gradients, compiled):
    u = rows_of(10)
    values, du = reference(u, 0.1)
    value, found = value_and_gradients(
        lambda x: weighted(x, 0.1), u, dtype="float32", compiled=compiled
    )
    assert value == pytest.approx(values @ UPSTREAM[:10], abs=2e-5)
    np.testing.assert_allclose(found, du, rtol=1e-5, atol=2e-5)


def test_the_widest_shift_stays_inside_float32(small_tiles, value_and_gradients):
    assert one_shift_serves(1 / 40)
    assert not one_shift_serves(0.0249)
    u = np.array([[1.0, 0.0], [-1.0, 0.0]])  # each row's only other is as far as can be
    value, gradient = value_and_gradients(
        lambda x: tf.reduce_sum(tiled_self_softmax(x, temperature=1 / 40)), u, dtype="float32"
    )
    assert value == pytest.approx(-80, rel=1e-5)
    np.testing.assert_allclose(gradient, [[-80, 0], [80, 0]], rtol=1e-5)


def test_zero_rows_and_equal_rows(small_tiles, value_and_gradients):
    for rows in (np.zeros([6, 3]), np.ones([6, 3])):
        value, gradient = value_and_gradients(
            lambda x: tf.reduce_mean(tiled_self_softmax(unit_rows(x), temperature=0.1)),
            rows,
            dtype="float32",
        )
        assert value == pytest.approx(np.log(5) + (10 if rows.any() else 0), rel=1e-6)
        np.testing.assert_allclose(gradient, 0, atol=1e-5)
