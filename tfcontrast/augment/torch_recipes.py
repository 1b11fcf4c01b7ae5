"""Recipes of the PyTorch codebases, which work on Pillow images with torchvision.

Crops have a uniform area, shrinking is antialiased, contrast and saturation blend with the grey
image. Pillow blurs with a Gaussian that is not cut and repeats the border: here it has at least 13
taps, three times the largest width, and the border is mirrored.
"""

import dataclasses
from typing import Any

from tfcontrast.augment.blur import kernel_size_for
from tfcontrast.augment.view_recipe import ViewRecipe

_BLUR_TAPS = 13


def _torchvision(
    image_size: int, jitter: tuple[float, float, float, float], **changes: Any
) -> ViewRecipe:
    """Crop, flip [0.5], jitter [0.8] (brightness, contrast, saturation, hue), grey [0.2]."""
    brightness, contrast, saturation, hue = jitter
    # No more taps than mirroring the border allows.
    taps = min(max(_BLUR_TAPS, kernel_size_for(image_size)), 2 * image_size - 1)
    recipe = ViewRecipe(
        image_size=image_size,
        crop_probability=1.0,
        crop_area=(0.2, 1.0),
        crop_law="area",
        resize_method="bilinear",
        antialias=True,
        flip_probability=0.5,
        jitter_probability=0.8,
        brightness=brightness,
        contrast=contrast,
        saturation=saturation,
        hue=hue,
        contrast_mean="grey",
        saturation_mode="grey",
        grayscale_probability=0.2,
        blur_kernel_size=taps,
        blur_padding="reflect",
    )
    return dataclasses.replace(recipe, **changes)


def supcontrast(image_size: int) -> ViewRecipe:
    """SupCon's CIFAR views (HobbitLong/SupContrast): no blur, unless asked for as SimCLR's."""
    recipe = _torchvision(image_size, (0.4, 0.4, 0.4, 0.1))
    return dataclasses.replace(recipe, blur_kernel_size=0, blur_padding="zero")


def moco_v1(image_size: int) -> ViewRecipe:
    """InstDisc's and MoCo v1's ImageNet views: strong hue, always; grey before the jitter.

    InstDisc's CIFAR script leaves the flip out.
    """
    return _torchvision(
        image_size, (0.4, 0.4, 0.4, 0.4), jitter_probability=1.0, grayscale_first=True
    )


def moco_v2(image_size: int) -> ViewRecipe:
    """MoCo v2's views (facebookresearch/moco), which SimSiam and DenseCL share."""
    return _torchvision(image_size, (0.4, 0.4, 0.4, 0.1), blur_probability=0.5)


def simsiam_cifar(image_size: int) -> ViewRecipe:
    """SimSiam's CIFAR views (Chen and He 2021, appendix D): MoCo v2's without blur.

    MoCo's CIFAR notebook has these with crops from 0.08 on.
    """
    return dataclasses.replace(moco_v2(image_size), blur_probability=0.0)


def barlow_twins_first(image_size: int) -> ViewRecipe:
    """BYOL's first view as Barlow Twins, VICReg and MoCo v3 have it: brightness is a factor.

    MoCo v3's ResNet takes crops from 0.2 on.
    """
    return _torchvision(
        image_size,
        (0.4, 0.4, 0.2, 0.1),
        crop_area=(0.08, 1.0),
        resize_method="bicubic",
        blur_probability=1.0,
    )


def barlow_twins_second(image_size: int) -> ViewRecipe:
    """BYOL's second view as Barlow Twins, VICReg and MoCo v3 have it."""
    return dataclasses.replace(
        barlow_twins_first(image_size), blur_probability=0.1, solarize_probability=0.2
    )


def swav(image_size: int) -> ViewRecipe:
    """SwAV's views without multi-crop, DeepCluster-v2's too: SimCLR's colours at full strength."""
    return _torchvision(
        image_size, (0.8, 0.8, 0.8, 0.2), crop_area=(0.08, 1.0), blur_probability=0.5
    )


def dino_first(image_size: int) -> ViewRecipe:
    """DINO's first global view (facebookresearch/dino): always blurred."""
    return dataclasses.replace(barlow_twins_first(image_size), crop_area=(0.14, 1.0))


def dino_second(image_size: int) -> ViewRecipe:
    """DINO's second global view: seldom blurred, sometimes solarised."""
    return dataclasses.replace(barlow_twins_second(image_size), crop_area=(0.14, 1.0))


def dino_local(image_size: int) -> ViewRecipe:
    """DINO's small views: blurred every other time."""
    return dataclasses.replace(
        barlow_twins_first(image_size), crop_area=(0.05, 0.4), blur_probability=0.5
    )


def _solo(image_size: int, jitter: tuple[float, float, float, float], blur: float) -> ViewRecipe:
    return _torchvision(
        image_size,
        jitter,
        crop_area=(0.08, 1.0),
        resize_method="bicubic",
        blur_probability=blur,
    )


def solo_symmetric(image_size: int) -> ViewRecipe:
    """solo-learn's CIFAR views for SimCLR, SupCon, SwAV and DeepCluster-v2."""
    return _solo(image_size, (0.8, 0.8, 0.8, 0.2), 0.5)


def solo_symmetric_weak(image_size: int) -> ViewRecipe:
    """solo-learn's CIFAR views for SimSiam and MoCo v2."""
    return _solo(image_size, (0.4, 0.4, 0.4, 0.1), 0.5)


def solo_asymmetric_first(image_size: int) -> ViewRecipe:
    """solo-learn's first CIFAR view for BYOL, Barlow Twins, DINO, NNCLR and MoCo v3: no blur."""
    return _solo(image_size, (0.4, 0.4, 0.2, 0.1), 0.0)


def solo_asymmetric_second(image_size: int) -> ViewRecipe:
    """solo-learn's second CIFAR view for these: sometimes solarised."""
    return dataclasses.replace(solo_asymmetric_first(image_size), solarize_probability=0.2)


def vicreg_cifar(image_size: int) -> ViewRecipe:
    """solo-learn's CIFAR views for VICReg: larger crops, both solarised alike."""
    return dataclasses.replace(
        solo_asymmetric_first(image_size), crop_area=(0.2, 1.0), solarize_probability=0.1
    )
