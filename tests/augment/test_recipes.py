import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import RECIPES, crop_boxes, example_seeds, make_view, view_recipes
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


TWO_KINDS = ["byol", "barlow_twins", "dino", "solo_asymmetric"]


@pytest.mark.parametrize("name", RECIPES)
def test_views_take_turns(name):
    one, two, *rest = view_recipes(name, image_size=32, num_views=5)
    assert (one != two) == (name in TWO_KINDS)
    assert rest == [one, two, one]
    if name in TWO_KINDS:
        assert (one.solarize_probability, two.solarize_probability) == (0.0, 0.2)


@pytest.mark.parametrize(
    ("name", "sizes", "whole", "local"),
    [
        ("swav", (224, 96), (0.14, 1.0), (0.05, 0.14)),
        ("dino", (224, 96), (0.4, 1.0), (0.05, 0.4)),
        ("solo_symmetric", (32, 18), (0.2, 1.0), (0.08, 0.5)),
    ],
)
def test_multi_crop_is_the_sources(name, sizes, whole, local):
    recipes = view_recipes(name, image_size=sizes[0], num_views=2, num_local_views=6)
    assert [recipe.image_size for recipe in recipes] == [sizes[0]] * 2 + [sizes[1]] * 6
    assert [recipe.crop_area for recipe in recipes] == [whole] * 2 + [local] * 6
    assert len(set(recipes[2:])) == 1
    plain = view_recipes(name, image_size=sizes[0])
    own = {"swav": (0.08, 1.0), "dino": (0.14, 1.0), "solo_symmetric": (0.08, 1.0)}[name]
    assert [recipe.crop_area for recipe in plain] == [own] * 2
    for whole_recipe, plain_recipe in zip(recipes, plain, strict=False):
        assert dataclasses.replace(whole_recipe, crop_area=own) == plain_recipe


def test_dinos_local_views_have_their_own_blur_and_no_solarisation():
    *whole, local = view_recipes("dino", image_size=224, num_local_views=1)
    assert [recipe.blur_probability for recipe in (*whole, local)] == [1.0, 0.1, 0.5]
    assert [recipe.solarize_probability for recipe in (*whole, local)] == [0.0, 0.2, 0.0]
    swav = view_recipes("swav", image_size=224, num_local_views=1)
    assert {recipe.blur_probability for recipe in swav} == {0.5}


def test_multi_crops_options_replace_the_recipes_own():
    recipes = view_recipes(
        "moco_v2",
        image_size=32,
        num_views=1,
        num_local_views=2,
        local_image_size=16,
        crop_area=(0.3, 0.9),
        local_crop_area=(0.1, 0.3),
        color_jitter_strength=0.5,
        use_blur=False,
    )
    assert [recipe.image_size for recipe in recipes] == [32, 16, 16]
    assert [recipe.crop_area for recipe in recipes] == [(0.3, 0.9)] + [(0.1, 0.3)] * 2
    assert {recipe.brightness for recipe in recipes} == {0.2}
    assert {recipe.blur_probability for recipe in recipes} == {0.0}
    simclr = view_recipes(
        "simclr_v2", image_size=32, num_local_views=1, local_crop_area=(0.05, 0.1)
    )
    assert [recipe.crop_min_covered for recipe in simclr] == [0.1, 0.1, 0.0]
    sizes = [r.image_size for r in view_recipes("dino", image_size=32, num_local_views=1)]
    assert sizes == [32, 32, 14]


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [("byol", [1.0, 0.1], [1.0, 0.1]), ("supcontrast", [0, 0], [0.5] * 2)],
)
def test_use_blur_leaves_recipes_that_blur_alone(name, before, after):
    assert [r.blur_probability for r in view_recipes(name, image_size=32)] == before
    asked = view_recipes(name, image_size=32, use_blur=True)
    assert [r.blur_probability for r in asked] == after
    never = view_recipes(name, image_size=32, use_blur=False)
    assert [r.blur_probability for r in never] == [0.0, 0.0]


@pytest.mark.parametrize("area", [(0.08, 1.0), (0.2, 1.0)])
def test_both_of_byols_views_take_the_given_crops(area):
    recipes = view_recipes("barlow_twins", image_size=32, crop_area=area)
    assert [recipe.crop_area for recipe in recipes] == [area] * 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("moco_v2", {}, "--augmentation=moco_v2 need .* of their own: swav, dino, solo_symmetric"),
        ("dino", {"local_image_size": -4}, "--local_image_size must be positive. Received: -4"),
        ("identity", {"local_crop_area": (0.1, 0.2)}, "--crop_area_min .* Received: 'identity'"),
    ],
)
def test_local_views_that_cannot_be_are_one_line(name, options, message):
    with pytest.raises(UserError, match=message) as caught:
        view_recipes(name, image_size=32, num_local_views=2, **options)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="Received: -1"):
        view_recipes(name, image_size=32, num_local_views=-1)


def test_sizes_and_areas_of_many_multi_crops():
    recipes = view_recipes("dino", image_size=24, num_local_views=2, local_image_size=12)
    images = tf.random.stateless_uniform([3000, 64, 64, 3], [1, 2])
    areas = {}
    for view, recipe in enumerate(recipes):
        seeds = example_seeds(0, tf.range(3000, dtype=tf.int64), view)
        assert make_view(images[:2], seeds[:2], recipe).shape == (2, *[recipe.image_size] * 2, 3)
        boxes = crop_boxes(seeds, 64, 64, recipe).numpy()
        areas[view] = boxes[:, 2] * boxes[:, 3] / 64**2
    for view in (2, 3):  # uniform in (0.05, 0.4)
        assert areas[view].min() > 0.045
        assert areas[view].max() < 0.41
        assert areas[view].mean() == pytest.approx(0.225, abs=0.008)
        assert areas[view].std() == pytest.approx(0.35 / 12**0.5, abs=0.005)
    for view in (0, 1):  # areas that do not fit in any allowed shape are drawn again
        assert 0.38 < areas[view].min() < 0.42
        assert areas[view].max() > 0.97
    assert not np.array_equal(areas[2], areas[3])
