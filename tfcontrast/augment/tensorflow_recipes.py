"""Recipes of the TensorFlow and JAX codebases, and those of this package.

Their crops follow TensorFlow's sampler, their resize has no antialiasing, and blur's kernel is a
tenth of the side.
"""

import dataclasses

from tfcontrast.augment.view_recipe import ViewRecipe


def simclr_v2(image_size: int) -> ViewRecipe:
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


def simclr_v1(image_size: int) -> ViewRecipe:
    """SimCLR's first version: brightness is added."""
    return dataclasses.replace(simclr_v2(image_size), brightness_mode="additive")


def byol_first(image_size: int) -> ViewRecipe:
    """BYOL's first view (Grill et al. 2020, appendix B; deepmind-research): always blurred.

    As SimCLR's first version, with a weaker jitter. MoCo v3's ResNet takes crops from 0.2 on.
    """
    return dataclasses.replace(
        simclr_v1(image_size),
        brightness=0.4,
        contrast=0.4,
        saturation=0.2,
        hue=0.1,
        blur_probability=1.0,
    )


def byol_second(image_size: int) -> ViewRecipe:
    """BYOL's second view: seldom blurred, sometimes solarised."""
    return dataclasses.replace(
        byol_first(image_size), blur_probability=0.1, solarize_probability=0.2
    )


def crop_flip(image_size: int) -> ViewRecipe:
    """SimCLR's linear evaluation and fine-tuning: crop and flip only."""
    return ViewRecipe(
        image_size=image_size,
        crop_probability=1.0,
        crop_area=(0.08, 1.0),
        crop_min_covered=0.1,
        flip_probability=0.5,
    )


def digits(image_size: int) -> ViewRecipe:
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


def identity(image_size: int) -> ViewRecipe:
    """The image itself, resized."""
    return ViewRecipe(image_size=image_size)
