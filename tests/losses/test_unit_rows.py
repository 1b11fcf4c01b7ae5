import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import unit_rows


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_rows_have_length_one_at_any_scale(scale):
    x = np.random.default_rng(0).normal(size=(5, 3, 7)) * scale
    for dtype, tolerance in ((np.float32, 2e-6), (np.float64, 1e-14)):
        u = unit_rows(tf.constant(x.astype(dtype))).numpy()
        assert u.dtype == dtype
        np.testing.assert_allclose(u, x / np.linalg.norm(x, axis=-1, keepdims=True), rtol=tolerance)


def test_a_zero_vector_stays_zero_and_gets_no_gradient():
    x = tf.constant([[0.0, 0.0], [3.0, 4.0], [1e-20, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        u = unit_rows(x)
        total = tf.reduce_sum(u * [1.0, 2.0])
    np.testing.assert_allclose(u, [[0, 0], [0.6, 0.8], [0, 0]], rtol=1e-6)
    # d(u . w)/dx = (w - (w . u) u) / ||x||, here w = (1, 2)
    np.testing.assert_allclose(
        tape.gradient(total, x), [[0, 0], [-0.064, 0.048], [0, 0]], rtol=1e-5
    )
