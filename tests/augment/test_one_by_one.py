import dataclasses
import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import (
    ViewRecipe,
    color_jitter,
    color_jitter_one,
    distort_each,
    distort_view,
    example_seeds,
    make_each,
    make_view,
)

SIZE, BATCH = 24, 40
RECIPE = ViewRecipe(
    image_size=SIZE, jitter_probability=0.7, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2,
    grayscale_probability=0.3, blur_probability=0.5, blur_kernel_size=5, solarize_probability=0.3,
)  # fmt: skip
RECIPES = {
    "tensorflow": RECIPE,
    "torchvision": dataclasses.replace(
        RECIPE, brightness_mode="additive", contrast_mean="grey", saturation_mode="grey",
        blur_padding="reflect", grayscale_first=True,
    ),
}  # fmt: skip


def images_and_seeds():
    images = np.random.default_rng(1).random([BATCH, SIZE, SIZE, 3], np.float32)
    return tf.constant(images), example_seeds(5, tf.range(BATCH, dtype=tf.int64), 1)


@functools.cache
def compiled(kind):
    return tf.function(lambda x, s: distort_each(x, s, RECIPES[kind]), jit_compile=True)


@pytest.mark.parametrize("kind", RECIPES)
def test_one_by_one_is_the_batch(kind):
    """40 images: each of the 24 orders is about as likely, each change happens and does not."""
    images, seeds = images_and_seeds()
    expected = distort_view(images, seeds, RECIPES[kind]).numpy()
    np.testing.assert_allclose(compiled(kind)(images, seeds), expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize(
    ("width", "size", "method"),
    [(20, 16, "bicubic"), (SIZE, SIZE, "bicubic"), (SIZE, SIZE, "bilinear")],
)
def test_whole_views_one_by_one_are_the_batch(width, size, method, dtype):
    """From images of another size and of the views' own, each with a box and a flip of its own."""
    images, seeds = images_and_seeds()
    images = images[:, :, :width]
    if dtype == "uint8":
        images = tf.cast(images * 255.0, tf.uint8)
    recipe = dataclasses.replace(
        RECIPE, image_size=size, crop_probability=0.9, crop_area=(0.1, 0.9), flip_probability=0.5,
        resize_method=method,
    )  # fmt: skip
    each = tf.function(lambda x, s: make_each(x, s, recipe), jit_compile=True)
    views = each(images, seeds)
    assert views.shape == [BATCH, size, size, 3]
    np.testing.assert_allclose(views, make_view(images, seeds, recipe), atol=1e-5)


def test_views_of_one_batch_follow_each_other():
    images, seeds = images_and_seeds()
    recipe = ViewRecipe(image_size=SIZE, crop_probability=1.0, flip_probability=0.5)
    again = example_seeds(5, tf.range(BATCH, dtype=tf.int64), 2)
    both = tf.function(lambda x, s: make_each(x, s, recipe), jit_compile=True)(
        images, tf.concat([seeds, again], axis=0)
    )
    for views, keys in zip(tf.split(both, 2), (seeds, again), strict=True):
        np.testing.assert_allclose(views, make_view(images, keys, recipe), atol=1e-5)


def test_an_image_does_not_depend_on_those_beside_it():
    images, seeds = images_and_seeds()
    each = compiled("tensorflow")
    whole = each(images, seeds).numpy()
    backwards = each(images[::-1], seeds[::-1]).numpy()[::-1]
    np.testing.assert_array_equal(whole, backwards)


def test_every_order_of_the_jitter_of_one():
    images, _ = images_and_seeds()
    amounts = tf.constant([[1.3, 0.6, 1.5, -0.1]])
    one = tf.function(color_jitter_one, jit_compile=True)
    for places in itertools.permutations(range(4)):
        places = tf.constant([places], tf.int32)
        np.testing.assert_allclose(
            one(images[:1], amounts, places), color_jitter(images[:1], amounts, places), atol=1e-5
        )


def test_the_jitter_of_one_spares_an_image_that_is_not_live():
    images, _ = images_and_seeds()
    amounts, places = tf.constant([[1.3, 0.6, 1.5, -0.1]]), tf.constant([[2, 0, 3, 1]])
    one = tf.function(color_jitter_one, jit_compile=True)
    spared = one(images[:1], amounts, places, tf.constant(False))
    np.testing.assert_array_equal(spared, images[:1])
    assert np.abs(one(images[:1], amounts, places, tf.constant(True)) - images[:1]).max() > 0.1
