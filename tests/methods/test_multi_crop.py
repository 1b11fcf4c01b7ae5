"""The options of local views, from the command line's names to the recipes of the views."""

import dataclasses

import pytest

from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS
from tfcontrast.methods.multi_crop import MultiCropConfig
from tfcontrast.train.build import make_recipes
from tfcontrast.train.options import make_config

WITH_LOCAL = sorted(name for name in METHODS if issubclass(METHODS[name].Config, MultiCropConfig))


def recipes_of(side=224, **options):
    given = {"method": "dino", "dataset": "imagenet2012", **options}
    return make_recipes(make_config(given), side)


def sizes_and_areas(recipes):
    return [(recipe.image_size, recipe.crop_area) for recipe in recipes]


def test_a_method_has_no_local_views_unless_it_says_so():
    assert MultiCropConfig().num_local_views == 0
    assert "dino" in WITH_LOCAL
    assert "simclr" not in WITH_LOCAL
    assert len(recipes_of(method="simclr")) == 2


@pytest.mark.parametrize("name", WITH_LOCAL)
def test_every_such_methods_own_number_of_views(name):
    own = METHODS[name].Config().num_local_views
    recipes = make_recipes(make_config({"method": name, "dataset": "imagenet2012"}), 224)
    assert len(recipes) == METHODS[name].num_views + own
    assert {r.image_size for r in recipes[METHODS[name].num_views :]} == ({96} if own else set())


def test_the_recipes_own_sizes_and_areas():
    recipes = recipes_of(num_local_views=3)
    assert sizes_and_areas(recipes) == [(224, (0.4, 1.0))] * 2 + [(96, (0.05, 0.4))] * 3
    assert sizes_and_areas(recipes_of(num_local_views=0)) == [(224, (0.14, 1.0))] * 2


def test_given_sizes_and_areas():
    recipes = recipes_of(
        32,
        num_local_views=2,
        local_image_size=18,
        local_crop_area_min=0.08,
        local_crop_area_max=0.3,
        crop_area_min=0.3,
    )
    assert sizes_and_areas(recipes) == [(32, (0.3, 1.0))] * 2 + [(18, (0.08, 0.3))] * 2


def test_a_recipe_without_local_views_takes_given_areas_only():
    with pytest.raises(UserError, match="--augmentation=moco_v2 need a range of crops"):
        recipes_of(augmentation="moco_v2", num_local_views=1)
    area = {"local_crop_area_min": 0.1, "local_crop_area_max": 0.2}
    recipes = recipes_of(augmentation="moco_v2", num_local_views=1, **area)
    assert sizes_and_areas(recipes)[-1] == (96, (0.1, 0.2))


@pytest.mark.parametrize(
    ("area", "message"),
    [
        (
            {"local_crop_area_min": 0.1},
            r"--local_crop_area_min and --local_crop_area_max go together.* 0\.1 and None",
        ),
        (
            {"local_crop_area_max": 0.4},
            r"--local_crop_area_min and --local_crop_area_max go together.* None and 0\.4",
        ),
        (
            {"local_crop_area_min": 0.5, "local_crop_area_max": 0.4},
            r"--local_crop_area_min must not exceed --local_crop_area_max.* 0\.5 and 0\.4",
        ),
    ],
)
def test_an_area_that_is_no_range(area, message):
    with pytest.raises(UserError, match=message):
        recipes_of(**area)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_local_views", -1),
        ("num_local_views", 65),
        ("local_image_size", -1),
        ("local_crop_area_min", 0.0),
        ("local_crop_area_max", 1.5),
    ],
)
def test_values_out_of_range(name, value):
    with pytest.raises(UserError, match=f"--{name} must be .*Received: {value}"):
        recipes_of(**{name: value})


def test_a_classifier_has_one_view_and_no_local_ones():
    config = make_config({"method": "dino", "dataset": "imagenet2012"})
    run = dataclasses.replace(config.run, train_mode="finetune")
    assert config.method.num_local_views == 8
    assert len(make_recipes(dataclasses.replace(config, run=run), 224)) == 1
