"""How a batch of images becomes views, by a recipe.

Every draw follows from the image's own seed (`random.example_seeds`), so a view does not depend on
the batch around it.
"""

import math

import tensorflow as tf

from tfcontrast.augment.blur import gaussian_blur, kernel_size_for
from tfcontrast.augment.color import solarize, to_grayscale
from tfcontrast.augment.crops import DRAWS, area_law_boxes, height_law_boxes
from tfcontrast.augment.geometry import (
    crop_and_resize,
    cut_and_resize,
    flip_left_right,
    warp_affine,
)
from tfcontrast.augment.jitter import color_jitter, color_jitter_one
from tfcontrast.augment.noise import cutout, gaussian_noise
from tfcontrast.augment.random import permutations, uniform
from tfcontrast.augment.view_recipe import ViewRecipe

_CROP_STREAM, _DISTORT_STREAM, _ORDER_STREAM, _NOISE_STREAM = range(4)

# The place of each draw is fixed, so that switching one change on leaves the draws of the others
# alone.
_CROP_GATE, _FLIP_GATE = DRAWS, DRAWS + 1
_DISTORT_DRAWS = (
    "jitter", "brightness", "contrast", "saturation", "hue", "grayscale", "blur", "sigma",
    "solarize", "rotate", "shift_y", "shift_x", "zoom", "shear", "erase", "erase_side",
    "erase_y", "erase_x", "noise",
)  # fmt: skip


_JITTERS = ("brightness", "contrast", "saturation", "hue")
_JITTER_MODES = ("brightness_mode", "contrast_mean", "saturation_mode")


def make_view(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """One random view of every image.

    Args:
        images: [B, H, W, 3], uint8 or float in [0, 1].
        seeds: [B, 2] uint32 from `random.example_seeds`; equal seeds give equal views.
        recipe: what may happen.

    Returns:
        [B, S, S, 3] float32 in [0, 1], S the recipe's image_size.
    """
    return distort_view(crop_view(images, seeds, recipe), seeds, recipe)


def crop_boxes(
    seeds: tf.Tensor, heights: tf.Tensor, widths: tf.Tensor, recipe: ViewRecipe
) -> tf.Tensor:
    """The boxes that `crop_view` cuts out, for images of any sizes.

    Args:
        seeds: [B, 2] uint32.
        heights: [B] or scalar int32, pixels.
        widths: [B] or scalar int32, pixels.
        recipe: its crop_* fields count.

    Returns:
        [B, 4] int32: y, x, height, width.
    """
    return drawn_boxes(crop_draws(seeds), heights, widths, recipe)


def crop_view(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """The first half of `make_view`: random crop, resize, flip, clip to [0, 1].

    A single image of unknown height and width, [1, None, None, 3], is cut before anything else is
    computed. SimCLR's code clips the overshoot of the bicubic kernel only after the next operation;
    here it never gets there.
    """
    draws = crop_draws(seeds)
    shape = tf.shape(images)
    boxes = drawn_boxes(draws, shape[1], shape[2], recipe)
    flip = drawn_flips(draws, recipe) if recipe.flip_probability else None
    views = crop_and_resize(
        images,
        boxes,
        recipe.image_size,
        method=recipe.resize_method,
        antialias=recipe.antialias,
        flip=flip,
    )
    return tf.clip_by_value(views, 0.0, 1.0)


def crop_draws(seeds: tf.Tensor) -> tf.Tensor:
    """All that is random in `crop_view`: [B, draws] float32 in [0, 1) from seeds [B, 2]."""
    return uniform(seeds, DRAWS + 2, stream=_CROP_STREAM)


def cut_view(image: tf.Tensor, box: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """The part of `crop_view` that an image of any size needs for itself: cut and resize.

    The rest costs several times as much outside of compiled code, and goes there.

    Args:
        image: [1, h, w, 3] uint8.
        box: [4] of `drawn_boxes`.
        recipe: its resize fields count.

    Returns:
        [1, S, S, 3] float32, about 0 to 255.
    """
    sides = (recipe.image_size, recipe.image_size)
    return cut_and_resize(
        image, box, sides, method=recipe.resize_method, antialias=recipe.antialias
    )


def finish_crop(crops: tf.Tensor, draws: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """Makes `crop_view` of `cut_view`: [B, S, S, 3] of 0 to 255 becomes flipped and [0, 1]."""
    crops = crops * (1.0 / 255.0)
    if recipe.flip_probability:
        crops = flip_left_right(crops, drawn_flips(draws, recipe))
    return tf.clip_by_value(crops, 0.0, 1.0)


def distort_view(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """The second half of `make_view`: everything that keeps the size.

    Args:
        images: [B, S, S, 3] float32 in [0, 1].
        seeds: [B, 2] uint32.
        recipe: what may happen.

    Returns:
        As `images`.
    """
    return distort(images, distort_draws(seeds, recipe), recipe)


def distort_draws(seeds: tf.Tensor, recipe: ViewRecipe) -> dict[str, tf.Tensor]:
    """All that is random in `distort_view`, from seeds [B, 2]: tensors of B rows."""
    unit = uniform(seeds, len(_DISTORT_DRAWS), stream=_DISTORT_STREAM)
    draws = {"unit": unit, "seeds": seeds}
    if recipe.jitter_probability:
        draws["amounts"] = _jitter_amounts(_named(unit), recipe)
        draws["places"] = permutations(seeds, 4, stream=_ORDER_STREAM)
    return draws


def distort(
    images: tf.Tensor, draws: dict[str, tf.Tensor], recipe: ViewRecipe, *, alone: bool = False
) -> tf.Tensor:
    """`distort_view` by draws that are made already.

    Args:
        images: [B, S, S, 3] float32 in [0, 1].
        draws: of `distort_draws`.
        recipe: what may happen.
        alone: B is 1, and jitter and blur are computed only where they happen.

    Returns:
        As `images`.
    """
    unit = _named(draws["unit"])
    if recipe.rotate_degrees or recipe.translate or recipe.zoom or recipe.shear:
        images = _random_affine(images, unit, recipe)
    grey = unit["grayscale"] < recipe.grayscale_probability
    if recipe.grayscale_probability and recipe.grayscale_first:
        images = to_grayscale(images, grey)
    if recipe.jitter_probability:
        live = unit["jitter"] < recipe.jitter_probability
        images = _jittered(images, draws, live, recipe, alone)
    if recipe.grayscale_probability and not recipe.grayscale_first:
        images = to_grayscale(images, grey)
    if recipe.blur_probability:
        sigmas = _between(unit["sigma"], *recipe.blur_sigma)
        kernel_size = recipe.blur_kernel_size or kernel_size_for(recipe.image_size)
        mask = unit["blur"] < recipe.blur_probability
        images = gaussian_blur(
            images, sigmas, mask, kernel_size, padding=recipe.blur_padding, alone=alone
        )
    if recipe.solarize_probability:
        images = solarize(images, unit["solarize"] < recipe.solarize_probability)
    if recipe.erase_probability:
        images = _random_erase(images, unit, recipe)
    if recipe.noise_stddev:
        stddevs = unit["noise"] * recipe.noise_stddev
        images = gaussian_noise(images, stddevs, draws["seeds"], stream=_NOISE_STREAM)
    return tf.clip_by_value(images, 0.0, 1.0)


def _named(unit: tf.Tensor) -> dict[str, tf.Tensor]:
    return dict(zip(_DISTORT_DRAWS, tf.unstack(unit, axis=1), strict=True))


def drawn_flips(draws: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """Which crops are mirrored, [B] bool, by draws from `crop_draws`."""
    return draws[:, _FLIP_GATE] < recipe.flip_probability


def drawn_boxes(
    draws: tf.Tensor, heights: tf.Tensor, widths: tf.Tensor, recipe: ViewRecipe
) -> tf.Tensor:
    """`crop_boxes` by draws from `crop_draws`."""
    batch = tf.shape(draws)[:1]
    heights, widths = tf.broadcast_to(heights, batch), tf.broadcast_to(widths, batch)
    zero = tf.zeros_like(heights)
    whole = tf.stack([zero, zero, heights, widths], axis=1)
    if not recipe.crop_probability:
        return whole
    unit = draws[:, :DRAWS]
    area, ratio = recipe.crop_area, recipe.crop_ratio
    if recipe.crop_law == "height":
        boxes = height_law_boxes(
            unit, heights, widths, area=area, ratio=ratio, min_covered=recipe.crop_min_covered
        )
    else:
        boxes = area_law_boxes(unit, heights, widths, area=area, ratio=ratio)
    if recipe.crop_probability == 1.0:
        return boxes
    return tf.where(draws[:, _CROP_GATE, None] < recipe.crop_probability, boxes, whole)


def _random_affine(images: tf.Tensor, draws: dict[str, tf.Tensor], recipe: ViewRecipe) -> tf.Tensor:
    angle = _around(0.0, recipe.rotate_degrees, draws["rotate"]) * (math.pi / 180.0)
    shear = _around(0.0, recipe.shear, draws["shear"])
    scale = 1.0 / _around(1.0, recipe.zoom, draws["zoom"])
    cos, sin = tf.cos(angle), tf.sin(angle)
    # Rotation after shear along x: rows are (y, x) of the source, see warp_affine.
    rows = [cos, sin, shear * cos - sin, shear * sin + cos]
    matrices = tf.reshape(tf.stack(rows, axis=-1) * scale[:, None], [-1, 2, 2])
    reach = recipe.translate * recipe.image_size
    shifts = [_around(0.0, reach, draws["shift_y"]), _around(0.0, reach, draws["shift_x"])]
    return warp_affine(images, matrices, tf.stack(shifts, axis=-1))


def _jitter_amounts(draws: dict[str, tf.Tensor], recipe: ViewRecipe) -> tf.Tensor:
    """The four amounts of `color_jitter`, [B, 4]."""
    lows, highs = [], []
    for name, middle in zip(_JITTERS, _untouched(recipe), strict=True):
        reach = getattr(recipe, name)
        lows.append(max(middle - reach, 0.0) if middle else -reach)
        highs.append(middle + reach)
    unit = tf.stack([draws[name] for name in _JITTERS], axis=-1)
    return tf.constant(lows) + (tf.constant(highs) - tf.constant(lows)) * unit


def _untouched(recipe: ViewRecipe) -> tuple[float, ...]:
    """The amounts that leave an image as it is."""
    return (0.0 if recipe.brightness_mode == "additive" else 1.0, 1.0, 1.0, 0.0)


def _jittered(
    images: tf.Tensor,
    draws: dict[str, tf.Tensor],
    live: tf.Tensor,
    recipe: ViewRecipe,
    alone: bool,
) -> tf.Tensor:
    amounts, places = draws["amounts"], draws["places"]
    modes = {name: getattr(recipe, name) for name in _JITTER_MODES}
    if alone:
        return color_jitter_one(images, amounts, places, live[0], **modes)
    amounts = tf.where(live[:, None], amounts, tf.constant(_untouched(recipe)))
    return color_jitter(images, amounts, places, **modes)


def _random_erase(images: tf.Tensor, draws: dict[str, tf.Tensor], recipe: ViewRecipe) -> tf.Tensor:
    size = float(recipe.image_size)
    side = tf.maximum(tf.round(_between(draws["erase_side"], *recipe.erase_side) * size), 1.0)
    y = tf.floor(draws["erase_y"] * (size - side + 1.0))
    x = tf.floor(draws["erase_x"] * (size - side + 1.0))
    side = tf.where(draws["erase"] < recipe.erase_probability, side, 0.0)
    return cutout(images, tf.cast(tf.stack([y, x, side, side], axis=1), tf.int32))


def _between(unit: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return low + (high - low) * unit


def _around(middle: float, reach: float, unit: tf.Tensor) -> tf.Tensor:
    return middle + reach * (2.0 * unit - 1.0)
