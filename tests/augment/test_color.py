import colorsys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from tfcontrast.augment import color


def pictures(count=5, seed=0):
    images = np.random.default_rng(seed).random((count, 6, 7, 3)).astype(np.float32)
    images[0, 0] = 0.5  # grey, black, white and pure colours: where the hue has no or two values
    images[0, 1, :6] = [[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]]
    return images


FACTORS = np.array([1.0, 0.0, 0.3, 1.7, 3.0], np.float32)
SHIFTS = np.array([0.0, -0.5, 0.2, 0.5, 0.93], np.float32)
MASK = np.array([True, False, True, False, False])
RAW = np.random.default_rng(3).integers(0, 256, (12, 11, 3)).astype(np.uint8)

CASES = {
    "brightness": (color.adjust_brightness, FACTORS, lambda image, f: image * f),
    "add_brightness": (color.add_brightness, SHIFTS, tf.image.adjust_brightness),
    "contrast": (color.adjust_contrast, FACTORS, tf.image.adjust_contrast),
    "saturation": (color.adjust_saturation, FACTORS, tf.image.adjust_saturation),
    "hue": (color.adjust_hue, SHIFTS, lambda image, d: tf.image.adjust_hue(image, (d + 1) % 2 - 1)),
}


@pytest.mark.parametrize("name", CASES)
def test_each_image_is_changed_as_tf_image_would_change_it_alone(name):
    function, amounts, reference = CASES[name]
    images = pictures()
    expected = [reference(img, float(a)) for img, a in zip(images, amounts, strict=True)]
    eager = function(images, amounts)
    np.testing.assert_allclose(eager, expected, atol=3e-6)
    np.testing.assert_allclose(
        tf.function(function, jit_compile=True)(images, amounts), eager, atol=3e-6
    )
    dataset = tf.data.Dataset.from_tensors((images, amounts)).map(function)
    np.testing.assert_allclose(next(iter(dataset)), eager, atol=1e-6)
    np.testing.assert_array_equal(eager[0], images[0])  # the first amount is the neutral one


def test_hue_is_colorsys_pixel_by_pixel():
    images = pictures(1)
    expected = images.copy()
    for index in np.ndindex(images.shape[:3]):
        h, s, v = colorsys.rgb_to_hsv(*images[index].tolist())
        expected[index] = colorsys.hsv_to_rgb((h + 0.31) % 1.0, s, v)
    np.testing.assert_allclose(color.adjust_hue(images, [0.31]), expected, atol=2e-6)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.6])
def test_grey_saturation_and_contrast_are_pillows(factor):
    image = Image.fromarray(RAW)
    ours = tf.constant(RAW[None] / 255.0, tf.float32)
    colour = np.asarray(ImageEnhance.Color(image).enhance(factor)) / 255.0
    contrast = np.asarray(ImageEnhance.Contrast(image).enhance(factor)) / 255.0
    got = tf.clip_by_value(color.adjust_saturation(ours, [factor], mode="grey"), 0, 1)
    np.testing.assert_allclose(got[0], colour, atol=2 / 255)
    got = tf.clip_by_value(color.adjust_contrast(ours, [factor], mean="grey"), 0, 1)
    np.testing.assert_allclose(got[0], contrast, atol=2 / 255)


def test_grayscale_is_pillows_luma_where_masked():
    images = np.repeat(RAW[None] / 255.0, 5, axis=0).astype(np.float32)
    got = color.to_grayscale(images, MASK).numpy()
    expected = np.asarray(Image.fromarray(RAW).convert("L")) / 255.0
    for row in range(5):
        if MASK[row]:
            np.testing.assert_allclose(got[row], np.stack([expected] * 3, -1), atol=1 / 255)
        else:
            np.testing.assert_array_equal(got[row], images[row])
    grey = np.full((1, 2, 2, 3), 0.37, np.float32)
    np.testing.assert_allclose(color.to_grayscale(grey, [True]), grey, atol=1e-7)


def test_solarize_is_pillows_where_masked():
    images = np.repeat(RAW[None] / 255.0, 5, axis=0).astype(np.float32)
    expected = np.asarray(ImageOps.solarize(Image.fromarray(RAW), 128)) / 255.0
    got = color.solarize(images, MASK, threshold=128 / 255)
    np.testing.assert_allclose(
        got, np.where(MASK[:, None, None, None], expected, images), atol=1e-6
    )


def test_unknown_modes_are_refused():
    with pytest.raises(ValueError, match="Received: 'median'"):
        color.adjust_contrast(pictures(), FACTORS, mean="median")
    with pytest.raises(ValueError, match="Received: 'hsl'"):
        color.adjust_saturation(pictures(), FACTORS, mode="hsl")
