import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import ViewRecipe, example_seeds, make_view
from tfcontrast.augment import torch_recipes as recipes

MAKERS = [
    value
    for name, value in vars(recipes).items()
    if callable(value) and value.__module__ == recipes.__name__ and not name.startswith("_")
]

# From the codes of the methods, and solo-learn's configurations for the four CIFAR recipes: crop
# area, resize, jitter and its probability, blur, solarise.
TABLE = {
    "supcontrast": ((0.2, 1.0), "bilinear", (0.4, 0.4, 0.4, 0.1), 0.8, 0.0, 0.0),
    "moco_v1": ((0.2, 1.0), "bilinear", (0.4, 0.4, 0.4, 0.4), 1.0, 0.0, 0.0),
    "moco_v2": ((0.2, 1.0), "bilinear", (0.4, 0.4, 0.4, 0.1), 0.8, 0.5, 0.0),
    "simsiam_cifar": ((0.2, 1.0), "bilinear", (0.4, 0.4, 0.4, 0.1), 0.8, 0.0, 0.0),
    "barlow_twins_first": ((0.08, 1.0), "bicubic", (0.4, 0.4, 0.2, 0.1), 0.8, 1.0, 0.0),
    "barlow_twins_second": ((0.08, 1.0), "bicubic", (0.4, 0.4, 0.2, 0.1), 0.8, 0.1, 0.2),
    "swav": ((0.08, 1.0), "bilinear", (0.8, 0.8, 0.8, 0.2), 0.8, 0.5, 0.0),
    "dino_first": ((0.14, 1.0), "bicubic", (0.4, 0.4, 0.2, 0.1), 0.8, 1.0, 0.0),
    "dino_second": ((0.14, 1.0), "bicubic", (0.4, 0.4, 0.2, 0.1), 0.8, 0.1, 0.2),
    "dino_local": ((0.05, 0.4), "bicubic", (0.4, 0.4, 0.2, 0.1), 0.8, 0.5, 0.0),
    "solo_symmetric": ((0.08, 1.0), "bicubic", (0.8, 0.8, 0.8, 0.2), 0.8, 0.5, 0.0),
    "solo_symmetric_weak": ((0.08, 1.0), "bicubic", (0.4, 0.4, 0.4, 0.1), 0.8, 0.5, 0.0),
    "solo_asymmetric_first": ((0.08, 1.0), "bicubic", (0.4, 0.4, 0.2, 0.1), 0.8, 0.0, 0.0),
    "solo_asymmetric_second": ((0.08, 1.0), "bicubic", (0.4, 0.4, 0.2, 0.1), 0.8, 0.0, 0.2),
    "vicreg_cifar": ((0.2, 1.0), "bicubic", (0.4, 0.4, 0.2, 0.1), 0.8, 0.0, 0.1),
}


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_values_are_the_sources(make):
    recipe = make(96)
    assert recipe.image_size == 96
    jitter = (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    found = (
        recipe.crop_area,
        recipe.resize_method,
        jitter,
        recipe.jitter_probability,
        recipe.blur_probability,
        recipe.solarize_probability,
    )
    assert found == TABLE[make.__name__]
    assert (recipe.crop_law, recipe.crop_probability, recipe.antialias) == ("area", 1.0, True)
    assert (recipe.flip_probability, recipe.grayscale_probability) == (0.5, 0.2)
    assert (recipe.contrast_mean, recipe.saturation_mode) == ("grey", "grey")
    assert (recipe.brightness_mode, recipe.crop_ratio) == ("multiplicative", (3 / 4, 4 / 3))
    assert recipe.blur_sigma == (0.1, 2.0)
    assert recipe.grayscale_first == (make is recipes.moco_v1)


def test_the_table_is_complete():
    assert {make.__name__ for make in MAKERS} == TABLE.keys()


@pytest.mark.parametrize(("side", "taps"), [(224, 23), (96, 13), (32, 13), (6, 11), (1, 1)])
def test_blur_reaches_three_widths_where_the_image_does(side, taps):
    recipe = recipes.moco_v2(side)
    assert recipe.blur_kernel_size == taps
    assert recipe.blur_padding == "reflect"
    image = tf.random.stateless_uniform([4, side, side, 3], [1, 2])
    seeds = example_seeds(0, tf.range(4, dtype=tf.int64), 0)
    always = dataclasses.replace(recipe, blur_probability=1.0)
    assert np.isfinite(make_view(image, seeds, always)).all()


def test_blur_is_pillows():
    from PIL import Image, ImageFilter

    rng = np.random.default_rng(0)
    # Pillow approximates the Gaussian by three boxes, so a smooth picture and two grey levels.
    noise = rng.random((8, 8, 3), dtype=np.float32)
    picture = Image.fromarray((noise * 255).astype(np.uint8)).resize((32, 32), Image.BICUBIC)
    expected = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.5)), np.float32) / 255
    source = recipes.moco_v2(32)
    recipe = ViewRecipe(
        image_size=32,
        blur_probability=1.0,
        blur_sigma=(1.5, 1.5),
        blur_kernel_size=source.blur_kernel_size,
        blur_padding=source.blur_padding,
    )
    seeds = example_seeds(0, tf.range(1, dtype=tf.int64), 0)
    view = make_view(np.asarray(picture)[None], seeds, recipe).numpy()[0]
    np.testing.assert_allclose(view[4:-4, 4:-4], expected[4:-4, 4:-4], atol=0.025)
    np.testing.assert_allclose(view, expected, atol=0.08)
    tenth = dataclasses.replace(recipe, blur_kernel_size=0, blur_padding="zero")
    assert np.abs(make_view(np.asarray(picture)[None], seeds, tenth)[0] - expected).max() > 0.15
