import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import crop_and_resize
from tfcontrast.augment.taps import blend_rows, taps

SIZE = 12
# y, x, height, width: the whole, single pixels, strips and corners
BOXES = np.array(
    [[0, 0, 12, 12], [5, 7, 1, 1], [0, 3, 12, 2], [4, 0, 1, 12], [0, 0, 5, 7], [7, 6, 5, 6]],
    np.int32,
)


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_taps_are_what_the_matrices_hold(method):
    """Every entry of the matrix that `crop_and_resize` multiplies by, rebuilt from the taps."""
    identity = tf.tile(tf.eye(SIZE)[None, :, :, None], [len(BOXES), 1, 1, 1])
    full = BOXES.copy()
    full[:, [1, 3]] = 0, SIZE
    expected = crop_and_resize(identity, full, SIZE, method=method)[..., 0].numpy()
    places, weights = taps(BOXES[:, 0], BOXES[:, 2], SIZE, method=method)
    weights = (weights / tf.reduce_sum(weights, axis=1, keepdims=True)).numpy()
    rebuilt = np.zeros_like(expected)
    for box, tap, target in np.ndindex(*places.shape):
        rebuilt[box, target, places[box, tap, target]] += weights[box, tap, target]
    np.testing.assert_allclose(rebuilt, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_places_lie_inside_the_box(method):
    places, _ = taps(BOXES[:, 0], BOXES[:, 2], SIZE, method=method)
    low = places.numpy().min(axis=(1, 2))
    high = places.numpy().max(axis=(1, 2))
    np.testing.assert_array_equal(low, BOXES[:, 0])
    np.testing.assert_array_equal(high, BOXES[:, 0] + BOXES[:, 2] - 1)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_blended_rows_are_the_resized_box(jit_compile, dtype):
    images = np.random.default_rng(0).integers(0, 256, [len(BOXES), SIZE, SIZE, 3])
    images = images.astype(dtype)
    rows = taps(BOXES[:, 0], BOXES[:, 2], SIZE, method="bicubic")
    columns = taps(BOXES[:, 1], BOXES[:, 3], SIZE, method="bicubic")
    blend = tf.function(blend_rows, jit_compile=jit_compile)
    expected = crop_and_resize(images.astype(np.float32), BOXES, SIZE).numpy()
    for number, image in enumerate(images):
        both = [tf.stack([c[number], r[number]]) for c, r in zip(columns, rows, strict=True)]
        got = blend(tf.constant(image.transpose(1, 2, 0)), *both).numpy()
        np.testing.assert_allclose(got.transpose(0, 2, 1), expected[number], atol=2e-3)
