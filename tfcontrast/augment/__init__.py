"""Batched, stateless augmentation: pure functions of images and seeds, for host and device."""

from tfcontrast.augment.blur import gaussian_blur, kernel_size_for
from tfcontrast.augment.color import (
    add_brightness,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    solarize,
    to_grayscale,
)
from tfcontrast.augment.evaluation import eval_view
from tfcontrast.augment.geometry import (
    crop_and_resize,
    flip_left_right,
    resize,
    rotate,
    to_float,
    warp_affine,
    whole_boxes,
)
from tfcontrast.augment.jitter import color_jitter, color_jitter_one
from tfcontrast.augment.noise import cutout, gaussian_noise, sobel, sobel_gradients
from tfcontrast.augment.one_by_one import distort_each, make_each
from tfcontrast.augment.random import (
    example_seeds,
    normal,
    permutations,
    random_bits,
    threefry2x32,
    uniform,
)
from tfcontrast.augment.recipes import RECIPES, view_recipes
from tfcontrast.augment.view_recipe import ViewRecipe
from tfcontrast.augment.views import (
    crop_boxes,
    crop_draws,
    crop_view,
    cut_view,
    distort_view,
    drawn_boxes,
    finish_crop,
    make_view,
)

__all__ = [
    "RECIPES",
    "ViewRecipe",
    "add_brightness",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "color_jitter",
    "color_jitter_one",
    "crop_and_resize",
    "crop_boxes",
    "crop_draws",
    "crop_view",
    "cut_view",
    "cutout",
    "distort_each",
    "distort_view",
    "drawn_boxes",
    "eval_view",
    "example_seeds",
    "finish_crop",
    "flip_left_right",
    "gaussian_blur",
    "gaussian_noise",
    "kernel_size_for",
    "make_each",
    "make_view",
    "normal",
    "permutations",
    "random_bits",
    "resize",
    "rotate",
    "sobel",
    "sobel_gradients",
    "solarize",
    "threefry2x32",
    "to_float",
    "to_grayscale",
    "uniform",
    "view_recipes",
    "warp_affine",
    "whole_boxes",
]
