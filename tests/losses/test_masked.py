import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses.masked import masked_log_sum_exp, masked_mean

X = np.random.default_rng(0).normal(size=(6, 9)) * 5
MASK = np.random.default_rng(1).random((6, 9)) < 0.5
MASK[2] = False
MASK[3] = True


def test_log_sum_exp_equals_the_loop():
    out = masked_log_sum_exp(tf.constant(X), tf.constant(MASK)).numpy()
    for row, keep, value in zip(X, MASK, out, strict=True):
        expected = np.log(sum(np.exp(x) for x in row[keep])) if keep.any() else 0.0
        assert value == pytest.approx(expected, abs=1e-12)


def test_mean_equals_the_loop():
    out = masked_mean(tf.constant(X), tf.constant(MASK)).numpy()
    for row, keep, value in zip(X, MASK, out, strict=True):
        assert value == pytest.approx(row[keep].mean() if keep.any() else 0.0, abs=1e-12)


@pytest.mark.parametrize("reduce", [masked_log_sum_exp, masked_mean])
@pytest.mark.parametrize("poison", [np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("jit", [False, True])
def test_a_masked_column_reaches_neither_value_nor_gradient(reduce, poison, jit):
    x = tf.constant(np.where(MASK, X, poison), tf.float32)
    mask = tf.constant(MASK)

    @tf.function(jit_compile=jit)
    def run(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            out = reduce(values, mask)
        return out, tape.gradient(out, values)

    out, gradient = run(x)
    np.testing.assert_allclose(out, reduce(tf.constant(X), mask), rtol=1e-5)
    gradient = gradient.numpy()
    assert (gradient[~MASK] == 0).all()
    # both reductions have weights that sum to one over the kept columns
    np.testing.assert_allclose(gradient.sum(1), MASK.any(1).astype(float), atol=1e-5)


def test_the_shift_is_the_maximum_of_the_kept_columns():
    x = tf.constant([[1e6, 1.0, 1.0], [1e6, -1e6, -1e6]])
    keep = tf.constant([[False, True, True]] * 2)
    np.testing.assert_allclose(masked_log_sum_exp(x, keep), [1 + np.log(2), -1e6], rtol=1e-6)
