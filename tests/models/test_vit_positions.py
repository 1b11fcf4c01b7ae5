"""Positions against loops, and against the example values of ONNX's Resize (a = -0.75)."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models.vit_positions import resize_matrix, resize_positions, sincos_positions


@pytest.mark.parametrize(("height", "width", "dim"), [(3, 3, 8), (2, 5, 12), (1, 1, 4)])
def test_sincos_positions_are_a_loops(height, width, dim):
    quarter = dim // 4
    expected = np.zeros((height * width, dim))
    for y in range(height):
        for x in range(width):
            for k in range(quarter):
                frequency = 1.0 / 10000 ** (k / quarter)
                cell = expected[y * width + x]
                cell[k] = math.sin(y * frequency)
                cell[quarter + k] = math.cos(y * frequency)
                cell[2 * quarter + k] = math.sin(x * frequency)
                cell[3 * quarter + k] = math.cos(x * frequency)
    np.testing.assert_allclose(sincos_positions(height, width, dim), expected, atol=1e-6)


def test_sincos_positions_need_four_equal_parts():
    with pytest.raises(ValueError, match="Received: 6"):
        sincos_positions(2, 2, 6)


def _resize(values, target):
    """Rows and columns of a square of numbers, as position embeddings of one channel."""
    side = len(values)
    flat = tf.constant(np.reshape(values, [side * side, 1]), tf.float32)
    return resize_positions(flat, (side, side), target).numpy().reshape(target)


def test_values_of_onnx_resize():
    # ONNX's operator documentation, Resize: resize_upsample_scales_cubic and
    # resize_downsample_sizes_cubic: half-pixel centres, a = -0.75, ends repeated
    values = np.arange(1.0, 17.0).reshape(4, 4)
    up = _resize(values, (8, 8))
    np.testing.assert_allclose(
        up[0],
        [0.47265625, 0.76953125, 1.24609375, 1.875, 2.28125, 2.91015625, 3.38671875, 3.68359375],
        rtol=1e-6,
    )
    np.testing.assert_allclose(up[1, :3], [1.66015625, 1.95703125, 2.43359375], rtol=1e-6)
    down = [
        [1.63078704, 3.00462963, 4.37847222],
        [7.12615741, 8.5, 9.87384259],
        [12.62152778, 13.99537037, 15.36921296],
    ]
    np.testing.assert_allclose(_resize(values, (3, 3)), down, rtol=5e-6)


def _keys(distance, a=-0.75):
    distance = abs(distance)
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    if distance < 2:
        return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return 0.0


@pytest.mark.parametrize(
    ("source", "target"), [(14, 6), (14, 24), (8, 4), (3, 7), (1, 4), (14, 13)]
)
def test_the_matrix_is_a_loop_over_taps(source, target):
    expected = np.zeros((target, source))
    for i in range(target):
        centre = (i + 0.5) * source / target - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            expected[i, min(max(tap, 0), source - 1)] += _keys(centre - tap)
    matrix = resize_matrix(source, target).numpy()
    np.testing.assert_allclose(matrix, expected, atol=2e-5)
    np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)


def test_the_native_size_is_the_identity():
    np.testing.assert_array_equal(resize_matrix(14, 14), np.eye(14))
    positions = tf.random.normal([14 * 14, 3])
    assert resize_positions(positions, (14, 14), (14, 14)) is positions
    same = resize_positions(positions, (14, 14), (tf.constant(14), tf.constant(14)))
    np.testing.assert_array_equal(same, positions)


def test_height_and_width_keep_their_places():
    rows = np.repeat(np.arange(4.0)[:, None], 4, 1)
    tall = _resize(rows, (8, 2))
    np.testing.assert_allclose(tall, np.repeat(tall[:, :1], 2, 1), atol=1e-6)
    assert (np.diff(tall[:, 0]) > 0).all()
    np.testing.assert_allclose(_resize(rows.T, (2, 8)), tall.T, atol=1e-6)


def test_xla_and_unknown_sizes_give_the_same():
    positions = tf.random.normal([25, 6])

    def resized(height, width):
        return resize_positions(positions, (5, 5), (height, width))

    expected = resized(3, 7)
    compiled = tf.function(lambda: resized(3, 7), jit_compile=True)()
    np.testing.assert_allclose(compiled, expected, atol=1e-6)
    traced = tf.function(resized, input_signature=[tf.TensorSpec([], tf.int32)] * 2)
    np.testing.assert_allclose(traced(3, 7), expected, atol=1e-6)
