"""The recipes of views by name.

A recipe tells the views of one example: all alike, or taking turns, and the small local views of
multi-crop beside them. `color_jitter_strength` multiplies a recipe's own jitter, `use_blur`
switches blur on or off, and `crop_area` replaces the range of the full-size views' crops.
"""

import dataclasses
from collections.abc import Callable

from tfcontrast.augment import tensorflow_recipes, torch_recipes
from tfcontrast.augment.view_recipe import ViewRecipe
from tfcontrast.errors import UserError

# DINO's and SwAV's local views have 96 pixels beside 224.
_LOCAL_SHARE = 96 / 224


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What `view_recipes` makes of a name: functions of a side in pixels, and multi-crop's ranges.

    Attributes:
        views: the full-size views, taking turns.
        local: the local views; None where they are as the first of `views`.
        multi_crop_area: range of the full-size views' crops when there are local ones too; None for
            their own.
        local_crop_area: range of the local views' crops; None where no source has any.
        local_share: side of the local views as a share of the others'.
    """

    views: tuple[Callable[[int], ViewRecipe], ...]
    local: Callable[[int], ViewRecipe] | None = None
    multi_crop_area: tuple[float, float] | None = None
    local_crop_area: tuple[float, float] | None = None
    local_share: float = _LOCAL_SHARE


RECIPES: dict[str, Recipe] = {
    "simclr_v1": Recipe(views=(tensorflow_recipes.simclr_v1,)),
    "simclr_v2": Recipe(views=(tensorflow_recipes.simclr_v2,)),
    "supcontrast": Recipe(views=(torch_recipes.supcontrast,)),
    "moco_v1": Recipe(views=(torch_recipes.moco_v1,)),
    "moco_v2": Recipe(views=(torch_recipes.moco_v2,)),
    "simsiam_cifar": Recipe(views=(torch_recipes.simsiam_cifar,)),
    "byol": Recipe(views=(tensorflow_recipes.byol_first, tensorflow_recipes.byol_second)),
    "barlow_twins": Recipe(
        views=(torch_recipes.barlow_twins_first, torch_recipes.barlow_twins_second)
    ),
    "swav": Recipe(
        views=(torch_recipes.swav,), multi_crop_area=(0.14, 1.0), local_crop_area=(0.05, 0.14)
    ),
    # These areas are the vision transformers'; DINO's ResNet-50 has SwAV's.
    "dino": Recipe(
        views=(torch_recipes.dino_first, torch_recipes.dino_second),
        local=torch_recipes.dino_local,
        multi_crop_area=(0.4, 1.0),
        local_crop_area=(0.05, 0.4),
    ),
    # solo-learn's SwAV with multi-crop: 2 x 32 and 6 x 18 pixels.
    "solo_symmetric": Recipe(
        views=(torch_recipes.solo_symmetric,),
        multi_crop_area=(0.2, 1.0),
        local_crop_area=(0.08, 0.5),
        local_share=18 / 32,
    ),
    "solo_symmetric_weak": Recipe(views=(torch_recipes.solo_symmetric_weak,)),
    "solo_asymmetric": Recipe(
        views=(torch_recipes.solo_asymmetric_first, torch_recipes.solo_asymmetric_second)
    ),
    "vicreg_cifar": Recipe(views=(torch_recipes.vicreg_cifar,)),
    "crop_flip": Recipe(views=(tensorflow_recipes.crop_flip,)),
    "digits": Recipe(views=(tensorflow_recipes.digits,)),
    "identity": Recipe(views=(tensorflow_recipes.identity,)),
}


def view_recipes(
    name: str,
    *,
    image_size: int,
    num_views: int = 2,
    num_local_views: int = 0,
    local_image_size: int | None = None,
    color_jitter_strength: float | None = None,
    use_blur: bool | None = None,
    crop_area: tuple[float, float] | None = None,
    local_crop_area: tuple[float, float] | None = None,
) -> tuple[ViewRecipe, ...]:
    """The recipe of each view: the full-size ones, then the local ones (multi-crop).

    Args:
        name: a key of `RECIPES`.
        image_size: side of the full-size views in pixels.
        num_views: how many full-size views; a recipe of two kinds of views takes turns.
        num_local_views: how many local views.
        local_image_size: their side in pixels; None for 96 beside 224 and so on in proportion.
        color_jitter_strength: multiplies the recipe's brightness, contrast, saturation and hue;
            None for 1.
        use_blur: True blurs half of the views of a recipe that never does, False none; None for
            the recipe's own.
        crop_area: range of the full-size views' crops; None for the recipe's own, which may differ
            with local views. A given range is taken as it is: SimCLR's floor of 0.1 goes.
        local_crop_area: the same for the local views.

    Returns:
        `num_views` + `num_local_views` recipes.

    Raises:
        UserError: an unknown recipe, or an option that the recipe has no use for.
    """
    if name not in RECIPES:
        raise UserError(f"--augmentation must be one of {', '.join(RECIPES)}. Received: {name!r}")
    if num_views < 1:
        raise ValueError(f"num_views must be positive. Received: {num_views}")
    if num_local_views < 0:
        raise ValueError(f"num_local_views must not be negative. Received: {num_local_views}")
    own = RECIPES[name]
    area = crop_area or (own.multi_crop_area if num_local_views else None)
    kinds = [_cropped(make(image_size), name, area) for make in own.views]
    recipes = [kinds[view % len(kinds)] for view in range(num_views)]
    if num_local_views:
        side = local_image_size or max(1, round(image_size * own.local_share))
        recipes += [_local(own, name, side, local_crop_area)] * num_local_views
    return tuple(_adjust(recipe, name, color_jitter_strength, use_blur) for recipe in recipes)


def _local(own: Recipe, name: str, side: int, area: tuple[float, float] | None) -> ViewRecipe:
    if side < 1:
        raise UserError(f"--local_image_size must be positive. Received: {side}")
    area = area or own.local_crop_area
    if area is None:
        with_local = ", ".join(key for key, recipe in RECIPES.items() if recipe.local_crop_area)
        raise UserError(
            f"Local views of --augmentation={name} need a range of crops (--local_crop_area_min, "
            f"--local_crop_area_max); recipes with one of their own: {with_local}"
        )
    return _cropped((own.local or own.views[0])(side), name, area)


def _cropped(recipe: ViewRecipe, name: str, area: tuple[float, float] | None) -> ViewRecipe:
    if area is None:
        return recipe
    if not recipe.crop_probability:
        raise UserError(f"--crop_area_min is for recipes that crop. Received: {name!r}")
    return dataclasses.replace(recipe, crop_area=area, crop_min_covered=0.0)


def _adjust(
    recipe: ViewRecipe, name: str, color_jitter_strength: float | None, use_blur: bool | None
) -> ViewRecipe:
    if color_jitter_strength is not None:
        recipe = _scale_jitter(recipe, name, color_jitter_strength)
    if use_blur and not recipe.jitter_probability:
        raise UserError(f"--use_blur is for recipes with colour jitter. Received: {name!r}")
    if use_blur and not recipe.blur_probability:
        recipe = dataclasses.replace(recipe, blur_probability=0.5)
    if use_blur is False:
        recipe = dataclasses.replace(recipe, blur_probability=0.0)
    return recipe


def _scale_jitter(recipe: ViewRecipe, name: str, strength: float) -> ViewRecipe:
    if strength < 0.0:
        raise UserError(f"--color_jitter_strength must not be negative. Received: {strength}")
    if strength and not recipe.jitter_probability:
        raise UserError(
            f"--color_jitter_strength is for recipes with colour jitter. Received: {name!r}"
        )
    return dataclasses.replace(
        recipe,
        brightness=recipe.brightness * strength,
        contrast=recipe.contrast * strength,
        saturation=recipe.saturation * strength,
        hue=recipe.hue * strength,
    )
