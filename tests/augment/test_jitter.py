import itertools

import numpy as np
import pytest
import tensorflow as tf
from skimage import color as skcolor

from tfcontrast.augment import color_jitter

ORDERS = np.array(list(itertools.permutations(range(4))), np.int32)


def pictures(count=24):
    return np.random.default_rng(0).random((count, 8, 9, 3)).astype(np.float32)


def amounts_of(count=24, additive=False):
    rng = np.random.default_rng(1)
    low, high = (
        ([-0.8] if additive else [0.2]) + [0.2] * 2 + [-0.2],
        [0.8 if additive else 1.8, 1.8, 1.8, 0.2],
    )
    return rng.uniform(low, high, (count, 4)).astype(np.float32)


def tensorflow_steps(additive):
    def brightness(image, amount):
        return image + amount if additive else image * amount

    return (brightness, tf.image.adjust_contrast, tf.image.adjust_saturation, tf.image.adjust_hue)


def pillow_like_steps():
    """torchvision's definitions in float64: luma by the blend, hue by scikit-image."""
    weights = np.array([0.299, 0.587, 0.114])

    def hue(image, amount):
        hsv = skcolor.rgb2hsv(np.asarray(image, np.float64))
        hsv[..., 0] = (hsv[..., 0] + amount) % 1.0
        return skcolor.hsv2rgb(hsv)

    return (
        lambda image, f: image * f,
        lambda image, f: f * image + (1 - f) * (image @ weights).mean(),
        lambda image, f: f * image + (1 - f) * (image @ weights)[..., None],
        hue,
    )


def one_after_another(images, amounts, orders, steps):
    results = []
    for image, amount, order in zip(images, amounts, orders, strict=True):
        for operation in order:
            image = np.clip(steps[operation](image, float(amount[operation])), 0.0, 1.0)
        results.append(image)
    return np.stack(results)


def places_of(orders):
    return np.argsort(orders, axis=1).astype(np.int32)


@pytest.mark.parametrize("brightness_mode", ["multiplicative", "additive"])
def test_all_24_orders_in_one_batch_equal_tf_image_step_by_step(brightness_mode):
    additive = brightness_mode == "additive"
    images, amounts = pictures(), amounts_of(additive=additive)

    def jitter(pixels, strengths, places):
        return color_jitter(pixels, strengths, places, brightness_mode=brightness_mode)

    expected = one_after_another(images, amounts, ORDERS, tensorflow_steps(additive))
    arguments = (images, amounts, places_of(ORDERS))
    np.testing.assert_allclose(jitter(*arguments), expected, atol=1e-5)
    np.testing.assert_allclose(
        tf.function(jitter, jit_compile=True)(*arguments), expected, atol=1e-5
    )
    dataset = tf.data.Dataset.from_tensors(arguments).map(jitter)
    np.testing.assert_allclose(next(iter(dataset)), expected, atol=1e-5)


def test_all_24_orders_equal_torchvisions_definitions():
    images, amounts = pictures(), amounts_of()
    got = color_jitter(
        images, amounts, places_of(ORDERS), contrast_mean="grey", saturation_mode="grey"
    )
    expected = one_after_another(images, amounts, ORDERS, pillow_like_steps())
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("brightness_mode", ["multiplicative", "additive"])
@pytest.mark.parametrize("saturation_mode", ["hsv", "grey"])
def test_neutral_amounts_leave_every_bit(brightness_mode, saturation_mode):
    images = pictures()
    neutral = np.tile([0.0 if brightness_mode == "additive" else 1.0, 1, 1, 0], (24, 1))
    got = color_jitter(
        images,
        neutral.astype(np.float32),
        places_of(ORDERS),
        brightness_mode=brightness_mode,
        saturation_mode=saturation_mode,
    )
    np.testing.assert_array_equal(got, images)


def test_black_white_and_grey_pictures_stay_finite_and_grey():
    values = np.array([0.0, 1.0, 0.4], np.float32)
    images = np.broadcast_to(values[:, None, None, None], (3, 4, 4, 3)).copy()
    got = color_jitter(images, amounts_of(3), places_of(ORDERS[:3])).numpy()
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, got[..., :1].repeat(3, -1), atol=1e-6)
