import dataclasses

import pytest

from tfcontrast.augment import tensorflow_recipes as recipes


# BYOL's appendix B and the table of its code: what the two views share, and where they differ.
@pytest.mark.parametrize(
    ("make", "blur", "solarize"),
    [(recipes.byol_first, 1.0, 0.0), (recipes.byol_second, 0.1, 0.2)],
)
def test_byols_views(make, blur, solarize):
    facts = {
        "image_size": 224, "crop_area": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3),
        "crop_probability": 1.0, "crop_law": "height", "resize_method": "bicubic",
        "antialias": False, "flip_probability": 0.5, "jitter_probability": 0.8,
        "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1,
        "brightness_mode": "additive", "grayscale_probability": 0.2, "grayscale_first": False,
        "blur_probability": blur, "blur_sigma": (0.1, 2.0), "blur_kernel_size": 0,
        "solarize_probability": solarize, "erase_probability": 0.0, "noise_stddev": 0.0,
    }  # fmt: skip
    recipe = dataclasses.asdict(make(224))
    assert {key: recipe[key] for key in facts} == facts


def test_simclrs_views():
    recipe = recipes.simclr_v2(32)
    assert (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue) == (
        0.8,
        0.8,
        0.8,
        0.2,
    )
    assert recipe.blur_probability == 0.5
    added = recipes.simclr_v1(32)
    assert added == dataclasses.replace(recipe, brightness_mode="additive")


@pytest.mark.parametrize("make", [recipes.crop_flip, recipes.digits, recipes.identity])
def test_the_others_leave_the_colours_alone(make):
    recipe = make(8)
    assert recipe.image_size == 8
    assert not recipe.jitter_probability + recipe.grayscale_probability + recipe.blur_probability
    assert recipe.flip_probability == (0.5 if make is recipes.crop_flip else 0.0)
