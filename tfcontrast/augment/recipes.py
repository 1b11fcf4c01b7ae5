"""The recipes of views by name, with their sources.

`color_jitter_strength` multiplies a recipe's own jitter, `use_blur` switches blur on (with
probability 0.5) or off, and `crop_area` replaces the range of crops.
"""

import dataclasses
from collections.abc import Callable

from tfcontrast.augment.view_recipe import ViewRecipe
from tfcontrast.errors import UserError


def _simclr_v2(image_size: int) -> ViewRecipe:
    """SimCLR (Chen et al. 2020) as its code has it by default: brightness is a factor.

    The code's sampler asks for a covered area of 0.1, so that crops of 0.08 to 0.1 never come; its
    blur draws one width for a whole batch, here every image has its own. For CIFAR its authors use
    strength 0.5 and no blur.
    """
    return ViewRecipe(
        image_size=image_size,
        crop_probability=1.0,
        crop_area=(0.08, 1.0),
        crop_min_covered=0.1,
        flip_probability=0.5,
        jitter_probability=0.8,
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        grayscale_probability=0.2,
        blur_probability=0.5,
    )


def _simclr_v1(image_size: int) -> ViewRecipe:
    """SimCLR's first version: brightness is added."""
    return dataclasses.replace(_simclr_v2(image_size), brightness_mode="additive")


def _supcontrast(image_size: int) -> ViewRecipe:
    """SupCon's CIFAR views (HobbitLong/SupContrast, torchvision on Pillow images): no blur."""
    return ViewRecipe(
        image_size=image_size,
        crop_probability=1.0,
        crop_area=(0.2, 1.0),
        crop_law="area",
        resize_method="bilinear",
        antialias=True,
        flip_probability=0.5,
        jitter_probability=0.8,
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        hue=0.1,
        contrast_mean="grey",
        saturation_mode="grey",
        grayscale_probability=0.2,
    )


def _crop_flip(image_size: int) -> ViewRecipe:
    """SimCLR's linear evaluation and fine-tuning: crop and flip only."""
    return ViewRecipe(
        image_size=image_size,
        crop_probability=1.0,
        crop_area=(0.08, 1.0),
        crop_min_covered=0.1,
        flip_probability=0.5,
    )


def _digits(image_size: int) -> ViewRecipe:
    """Scanned digits: what hand and scanner vary, and never a flip, which changes the digit."""
    return ViewRecipe(
        image_size=image_size,
        crop_probability=0.5,
        crop_area=(0.7, 1.0),
        crop_ratio=(4 / 5, 5 / 4),
        crop_law="area",
        resize_method="bilinear",
        rotate_degrees=15.0,
        translate=0.1,
        zoom=0.15,
        shear=0.15,
        erase_probability=0.3,
        noise_stddev=0.1,
    )


def _identity(image_size: int) -> ViewRecipe:
    """The image itself, resized."""
    return ViewRecipe(image_size=image_size)


RECIPES: dict[str, Callable[[int], ViewRecipe]] = {
    "simclr_v1": _simclr_v1,
    "simclr_v2": _simclr_v2,
    "supcontrast": _supcontrast,
    "crop_flip": _crop_flip,
    "digits": _digits,
    "identity": _identity,
}


def view_recipes(
    name: str,
    *,
    image_size: int,
    num_views: int = 2,
    color_jitter_strength: float | None = None,
    use_blur: bool | None = None,
    crop_area: tuple[float, float] | None = None,
) -> tuple[ViewRecipe, ...]:
    """The recipe of each view.

    Args:
        name: a key of `RECIPES`.
        image_size: side of the views in pixels.
        num_views: how many views.
        color_jitter_strength: multiplies the recipe's brightness, contrast, saturation and hue;
            None for 1.
        use_blur: None for the recipe's own.
        crop_area: None for the recipe's own. A given range is taken as it is: SimCLR's floor of 0.1
            goes.

    Returns:
        `num_views` recipes.

    Raises:
        UserError: an unknown recipe, or an option that the recipe has no use for.
    """
    if name not in RECIPES:
        raise UserError(f"--augmentation must be one of {', '.join(RECIPES)}. Received: {name!r}")
    if num_views < 1:
        raise ValueError(f"num_views must be positive. Received: {num_views}")
    recipe = RECIPES[name](image_size)
    if color_jitter_strength is not None:
        recipe = _scale_jitter(recipe, name, color_jitter_strength)
    if use_blur is not None:
        if use_blur and not recipe.jitter_probability:
            raise UserError(f"--use_blur is for recipes with colour jitter. Received: {name!r}")
        recipe = dataclasses.replace(recipe, blur_probability=0.5 if use_blur else 0.0)
    if crop_area is not None:
        if not recipe.crop_probability:
            raise UserError(f"--crop_area_min is for recipes that crop. Received: {name!r}")
        recipe = dataclasses.replace(recipe, crop_area=crop_area, crop_min_covered=0.0)
    return (recipe,) * num_views


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
