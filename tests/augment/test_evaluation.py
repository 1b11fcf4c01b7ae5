import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import eval_view


def pictures(height, width, count=2):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(8, 8), (32, 32)])
def test_small_images_of_the_right_size_are_untouched(shape):
    images = pictures(*shape)
    got = eval_view(images, image_size=shape[0])
    np.testing.assert_allclose(got, images / 255.0, atol=1e-7)
    floats = (images / 255.0).astype(np.float32)
    np.testing.assert_array_equal(eval_view(floats, image_size=shape[0]), floats)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (96, 64), (1, 5)])
def test_small_targets_are_a_plain_bicubic_resize_of_everything(shape):
    images = pictures(*shape)
    expected = tf.clip_by_value(tf.image.resize(images / 255.0, [32, 32], "bicubic"), 0, 1)
    got = eval_view(images, image_size=32)
    np.testing.assert_allclose(got, expected, atol=3e-3)


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ((300, 400), (19, 69, 262, 262)),  # 262.5 rounds to even; (300 - 262 + 1) // 2 = 19
        ((96, 96), (6, 6, 84, 84)),
        ((8, 8), (1, 1, 7, 7)),
        ((50, 33), (11, 2, 29, 29)),
        ((1, 9), (0, 4, 1, 1)),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_large_targets_are_the_central_crop(shape, box, known):
    images = pictures(*shape)
    y, x, h, w = box
    cut = images[:, y : y + h, x : x + w] / 255.0
    expected = tf.clip_by_value(tf.image.resize(cut, [48, 48], "bicubic"), 0, 1)

    def view(pixels):
        return eval_view(pixels, image_size=48)

    if not known:
        view = tf.function(view, input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)])
    np.testing.assert_allclose(view(images), expected, atol=3e-3)
    compiled = tf.function(lambda pixels: eval_view(pixels, image_size=48), jit_compile=True)
    np.testing.assert_allclose(compiled(images), view(images), atol=1e-5)


@pytest.mark.parametrize("size", [16, 48])
def test_one_image_of_unknown_size(size):
    images = pictures(70, 41, count=1)
    spec = [tf.TensorSpec([1, None, None, 3], tf.uint8)]
    streamed = tf.function(lambda image: eval_view(image, image_size=size), input_signature=spec)
    np.testing.assert_allclose(streamed(images), eval_view(images, image_size=size), atol=2e-3)


@pytest.mark.parametrize("size", [16, 48])
def test_grey_stays_grey_and_constant_stays_constant(size):
    grey = np.repeat(pictures(40, 31)[..., :1], 3, axis=-1)
    got = eval_view(grey, image_size=size).numpy()
    np.testing.assert_allclose(got, got[..., :1].repeat(3, -1), atol=1e-6)
    flat = np.full((1, 40, 31, 3), 77, np.uint8)
    np.testing.assert_allclose(eval_view(flat, image_size=size), 77 / 255, atol=1e-6)


def test_crop_fraction_one_keeps_the_square():
    images = pictures(50, 60)
    got = eval_view(images, image_size=50, crop_fraction=1.0)
    np.testing.assert_allclose(got, images[:, :, 5:55] / 255.0, atol=1e-6)


@pytest.mark.parametrize("arguments", [{"image_size": 0}, {"image_size": 64, "crop_fraction": 1.1}])
def test_wrong_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="Received: "):
        eval_view(pictures(8, 8), **arguments)
