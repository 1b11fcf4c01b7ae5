import dataclasses

import pytest

from tfcontrast.augment import RECIPES, view_recipes
from tfcontrast.errors import UserError


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_as_many_views_as_asked(name):
    recipes = view_recipes(name, image_size=24, num_views=3)
    assert len(recipes) == 3
    assert {recipe.image_size for recipe in recipes} == {24}


def test_the_two_versions_of_simclr_differ_in_the_brightness_only():
    one, two = (
        view_recipes("simclr_v1", image_size=32)[0],
        view_recipes("simclr_v2", image_size=32)[0],
    )
    assert (one.brightness_mode, two.brightness_mode) == ("additive", "multiplicative")
    assert dataclasses.replace(one, brightness_mode="multiplicative") == two


# From SimCLR's appendix A and code, and from SupContrast's main_supcon.
@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("simclr_v2", {
            "crop_area": (0.08, 1.0), "crop_ratio": (3 / 4, 4 / 3), "flip_probability": 0.5,
            "jitter_probability": 0.8, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8,
            "hue": 0.2,
            "grayscale_probability": 0.2, "blur_probability": 0.5, "blur_sigma": (0.1, 2.0),
            "resize_method": "bicubic", "antialias": False, "contrast_mean": "channel",
        }),
        ("supcontrast", {
            "crop_area": (0.2, 1.0), "flip_probability": 0.5, "jitter_probability": 0.8,
            "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1,
            "grayscale_probability": 0.2, "blur_probability": 0.0, "resize_method": "bilinear",
            "antialias": True, "contrast_mean": "grey", "crop_law": "area",
        }),
        ("crop_flip", {"crop_area": (0.08, 1.0), "jitter_probability": 0.0}),
        ("digits", {"flip_probability": 0.0, "jitter_probability": 0.0}),
        ("identity", {"crop_probability": 0.0, "flip_probability": 0.0}),
    ],
)  # fmt: skip
def test_the_recipes_are_their_sources(name, facts):
    recipe = dataclasses.asdict(view_recipes(name, image_size=32)[0])
    assert {key: recipe[key] for key in facts} == facts


def test_options_replace_the_recipes_own():
    recipe = view_recipes(
        "supcontrast", image_size=32, color_jitter_strength=0.5, use_blur=True, crop_area=(0.5, 0.9)
    )[0]
    assert recipe.brightness == recipe.contrast == recipe.saturation == 0.2
    assert recipe.hue == 0.05
    assert recipe.blur_probability == 0.5
    assert recipe.crop_area == (0.5, 0.9)
    assert view_recipes("simclr_v2", image_size=32, use_blur=False)[0].blur_probability == 0.0
    assert (
        view_recipes("simclr_v2", image_size=32, crop_area=(0.05, 1.0))[0].crop_min_covered == 0.0
    )
    plain = view_recipes("crop_flip", image_size=32)
    assert (
        view_recipes("crop_flip", image_size=32, use_blur=False, color_jitter_strength=0.0) == plain
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("simclr", {}, "--augmentation must be one of simclr_v1, .* Received: 'simclr'"),
        ("simclr_v2", {"color_jitter_strength": -1.0}, "--color_jitter_strength .* Received: -1.0"),
        ("digits", {"color_jitter_strength": 1.0}, "--color_jitter_strength .* Received: 'digits'"),
        ("identity", {"use_blur": True}, "--use_blur .* Received: 'identity'"),
        ("identity", {"crop_area": (0.1, 1.0)}, "--crop_area_min .* Received: 'identity'"),
    ],
)
def test_a_users_mistake_is_one_line(name, options, message):
    with pytest.raises(UserError, match=message):
        view_recipes(name, image_size=32, **options)


def test_no_views_is_refused():
    with pytest.raises(ValueError, match="Received: 0"):
        view_recipes("identity", image_size=32, num_views=0)
