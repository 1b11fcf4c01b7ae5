import numpy as np
import pytest
import tensorflow as tf
from scipy import ndimage

from tfcontrast.augment import gaussian_blur, kernel_size_for

SIGMAS = np.array([0.0, 0.1, 0.7, 2.0, 1.3], np.float32)
MASK = np.array([True, True, True, True, False])


def pictures():
    return np.random.default_rng(0).random((5, 14, 17, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("side", "expected"), [(8, 1), (32, 3), (64, 7), (96, 9), (128, 13), (160, 17), (224, 23)]
)
def test_kernel_size_is_simclrs(side, expected):
    assert kernel_size_for(side) == expected


@pytest.mark.parametrize(("padding", "mode"), [("zero", "constant"), ("reflect", "mirror")])
@pytest.mark.parametrize("kernel_size", [3, 9])
def test_blur_is_scipys_per_image(kernel_size, padding, mode):
    images, radius = pictures(), kernel_size // 2
    expected = images.astype(np.float64).copy()
    for row in (1, 2, 3):
        sigma = (SIGMAS[row], SIGMAS[row], 0)
        expected[row] = ndimage.gaussian_filter(
            expected[row], sigma, mode=mode, radius=(radius, radius, 0)
        )

    def blur(pixels, sigmas, mask):
        return gaussian_blur(pixels, sigmas, mask, kernel_size, padding=padding)

    got = blur(images, SIGMAS, MASK)
    np.testing.assert_allclose(got, expected, atol=2e-6)
    np.testing.assert_array_equal(got.numpy()[[0, 4]], images[[0, 4]])
    compiled = tf.function(blur, jit_compile=True)
    np.testing.assert_allclose(compiled(images, SIGMAS, MASK), expected, atol=2e-6)
    spec = (
        tf.TensorSpec([None, None, None, 3]),
        tf.TensorSpec([None]),
        tf.TensorSpec([None], tf.bool),
    )
    unknown = tf.function(blur, input_signature=spec)
    np.testing.assert_allclose(unknown(images, SIGMAS, MASK), expected, atol=2e-6)


def test_kernel_of_one_tap_is_the_identity():
    np.testing.assert_array_equal(gaussian_blur(pictures(), SIGMAS, MASK, 1), pictures())


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="Received: 4"):
        gaussian_blur(pictures(), SIGMAS, MASK, 4)
    with pytest.raises(ValueError, match="Received: 'edge'"):
        gaussian_blur(pictures(), SIGMAS, MASK, 3, padding="edge")
