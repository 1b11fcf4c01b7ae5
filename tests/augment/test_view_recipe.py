import dataclasses

import pytest

from tfcontrast.augment import ViewRecipe


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 0},
        {"flip_probability": 1.2},
        {"blur_probability": -0.1},
        {"crop_area": (0.0, 1.0)},
        {"crop_area": (0.5, 0.4)},
        {"crop_area": (0.5, 1.1)},
        {"blur_sigma": (2.0, 0.1)},
        {"hue": -0.1},
        {"crop_law": "torch"},
        {"resize_method": "nearest"},
        {"brightness_mode": "plus"},
        {"contrast_mean": "gray"},
        {"saturation_mode": "hsl"},
    ],
)
def test_impossible_values_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} .* Received: "):
        ViewRecipe(**({"image_size": 32} | options))


def test_a_recipe_is_frozen_hashable_and_off_by_default():
    recipe = ViewRecipe(image_size=32)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.image_size = 8
    assert hash(recipe) == hash(ViewRecipe(image_size=32))
    off = dataclasses.asdict(recipe)
    assert not any(off[name] for name in off if name.endswith("_probability"))
