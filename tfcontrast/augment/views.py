"""How a batch of images becomes views, by a recipe.

Every draw follows from the image's own seed (`random.example_seeds`), so a view does not depend on
the batch around it.
"""

import functools
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
    return _boxes(crop_draws(seeds), heights, widths, recipe)


def crop_view(images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """The first half of `make_view`: random crop, resize, flip, clip to [0, 1].

    A single image of unknown height and width, [1, None, None, 3], is cut before anything else is
    computed. SimCLR's code clips the overshoot of the bicubic kernel only after the next operation;
    here it never gets there.
    """
    draws = crop_draws(seeds)
    shape = tf.shape(images)
    boxes = _boxes(draws, shape[1], shape[2], recipe)
    flip = draws[:, _FLIP_GATE] < recipe.flip_probability if recipe.flip_probability else None
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


def cut_view(image: tf.Tensor, draws: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """The part of `crop_view` that an image of any size needs for itself: cut and resize.

    The rest costs several times as much outside of a compiled batch, and goes there.

    Args:
        image: [1, h, w, 3] uint8.
        draws: [1, ...] from `crop_draws`.
        recipe: its crop_* and resize fields count.

    Returns:
        [1, S, S, 3] float32, about 0 to 255.
    """
    shape, sides = tf.shape(image), (recipe.image_size, recipe.image_size)
    box = _boxes(draws, shape[1], shape[2], recipe)[0]
    return cut_and_resize(
        image, box, sides, method=recipe.resize_method, antialias=recipe.antialias
    )


def finish_crop(crops: tf.Tensor, draws: tf.Tensor, recipe: ViewRecipe) -> tf.Tensor:
    """Makes `crop_view` of `cut_view`: [B, S, S, 3] of 0 to 255 becomes flipped and [0, 1]."""
    crops = crops * (1.0 / 255.0)
    if recipe.flip_probability:
        crops = flip_left_right(crops, draws[:, _FLIP_GATE] < recipe.flip_probability)
    return tf.clip_by_value(crops, 0.0, 1.0)


def distort_view(
    images: tf.Tensor, seeds: tf.Tensor, recipe: ViewRecipe, *, alone: bool = False
) -> tf.Tensor:
    """The second half of `make_view`: everything that keeps the size.

    Args:
        images: [B, S, S, 3] float32 in [0, 1].
        seeds: [B, 2] uint32.
        recipe: what may happen.
        alone: B is 1, and jitter and blur are computed only where they happen.

    Returns:
        As `images`.
    """
    columns = uniform(seeds, len(_DISTORT_DRAWS), stream=_DISTORT_STREAM)
    draws = dict(zip(_DISTORT_DRAWS, tf.unstack(columns, axis=1), strict=True))
    if recipe.rotate_degrees or recipe.translate or recipe.zoom or recipe.shear:
        images = _random_affine(images, draws, recipe)
    grey = draws["grayscale"] < recipe.grayscale_probability
    if recipe.grayscale_probability and recipe.grayscale_first:
        images = to_grayscale(images, grey)
    if recipe.jitter_probability:
        images = _random_jitter(images, seeds, draws, recipe, alone)
    if recipe.grayscale_probability and not recipe.grayscale_first:
        images = to_grayscale(images, grey)
    if recipe.blur_probability:
        sigmas = _between(draws["sigma"], *recipe.blur_sigma)
        kernel_size = recipe.blur_kernel_size or kernel_size_for(recipe.image_size)
        mask = draws["blur"] < recipe.blur_probability
        blur = functools.partial(
            gaussian_blur, images, sigmas, mask, kernel_size, padding=recipe.blur_padding
        )
        images = tf.cond(mask[0], blur, lambda sharp=images: sharp) if alone else blur()
    if recipe.solarize_probability:
        images = solarize(images, draws["solarize"] < recipe.solarize_probability)
    if recipe.erase_probability:
        images = _random_erase(images, draws, recipe)
    if recipe.noise_stddev:
        stddevs = draws["noise"] * recipe.noise_stddev
        images = gaussian_noise(images, stddevs, seeds, stream=_NOISE_STREAM)
    return tf.clip_by_value(images, 0.0, 1.0)


def _boxes(
    draws: tf.Tensor, heights: tf.Tensor, widths: tf.Tensor, recipe: ViewRecipe
) -> tf.Tensor:
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


def _random_jitter(
    images: tf.Tensor,
    seeds: tf.Tensor,
    draws: dict[str, tf.Tensor],
    recipe: ViewRecipe,
    alone: bool,
) -> tf.Tensor:
    additive = recipe.brightness_mode == "additive"
    centre = tf.constant([0.0 if additive else 1.0, 1.0, 1.0, 0.0])
    lows, highs = [], []
    for name, middle in (
        ("brightness", 0.0 if additive else 1.0),
        ("contrast", 1.0),
        ("saturation", 1.0),
        ("hue", 0.0),
    ):
        reach = getattr(recipe, name)
        lows.append(max(middle - reach, 0.0) if middle else -reach)
        highs.append(middle + reach)
    unit = tf.stack([draws[name] for name in ("brightness", "contrast", "saturation", "hue")], -1)
    amounts = tf.constant(lows) + (tf.constant(highs) - tf.constant(lows)) * unit
    live = draws["jitter"][:, None] < recipe.jitter_probability
    jitter = functools.partial(
        color_jitter_one if alone else color_jitter,
        images,
        tf.where(live, amounts, centre),
        permutations(seeds, 4, stream=_ORDER_STREAM),
        brightness_mode=recipe.brightness_mode,
        contrast_mean=recipe.contrast_mean,
        saturation_mode=recipe.saturation_mode,
    )
    return tf.cond(live[0, 0], jitter, lambda: images) if alone else jitter()


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
