"""From options to the encoder: a ResNet or a vision transformer."""

from collections.abc import Iterable
from typing import Any, TypeAlias

from tfcontrast.config import Config
from tfcontrast.errors import UserError
from tfcontrast.models import ResNet, VisionTransformer
from tfcontrast.models.resnet import resolve_stem
from tfcontrast.models.vit import SIZES

Backbone: TypeAlias = ResNet | VisionTransformer

# Mean and deviation by --input_normalization; CIFAR's are those of its training images, "half" maps
# [0, 1] to [-1, 1].
_NORMALIZATIONS: dict[str, tuple[tuple[float, ...] | None, tuple[float, ...] | None]] = {
    "none": (None, None),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def build_backbone(config: Config, image_size: int) -> Backbone:
    """The encoder that the options describe.

    Args:
        config: the run's options.
        image_size: side of the full-size views in pixels.

    Raises:
        UserError: a vision transformer's patches do not fill the images, or its heads the width.
    """
    options = config.model
    mean, deviation = _NORMALIZATIONS[options.input_normalization]
    common: dict[str, Any] = {
        "input_mean": mean,
        "input_std": deviation,
        "remat": options.remat,
        "dtype": "mixed_bfloat16" if options.precision == "bfloat16" else "float32",
        "name": "backbone",
    }
    if options.backbone != "resnet":
        return _build_transformer(config, image_size, common)
    return ResNet(
        depth=options.resnet_depth,
        width_multiplier=options.width_multiplier,
        stem=options.stem,
        image_size=image_size,
        sk_ratio=options.sk_ratio,
        se_ratio=options.se_ratio,
        shortcut=options.shortcut,
        output_stride=options.output_stride,
        zero_init_last_gamma=options.zero_init_last_gamma,
        batch_norm_decay=options.batch_norm_decay,
        global_bn=options.global_bn,
        batch_norm_splits=options.batch_norm_splits,
        sobel=options.sobel,
        **common,
    )


def _build_transformer(
    config: Config, image_size: int, common: dict[str, Any]
) -> VisionTransformer:
    options = config.model
    size = options.backbone.removeprefix("vit_")
    width = SIZES[size][0]
    if options.num_heads and width % options.num_heads:
        raise UserError(
            f"--num_heads must divide the width of --backbone={options.backbone}, {width}. "
            f"Received: {options.num_heads}"
        )
    backbone = VisionTransformer(
        size=size,
        patch_size=options.patch_size,
        image_size=options.position_image_size or image_size,
        num_heads=options.num_heads,
        position_embedding=options.position_embedding,
        initialization=options.vit_initialization,
        freeze_patch_embedding=options.freeze_patch_embedding,
        drop_path_rate=options.drop_path_rate,
        **common,
    )
    backbone.check_image_size(image_size)
    return backbone


def check_view_sizes(config: Config, sizes: Iterable[int]) -> None:
    """Refuses small views that a vision transformer cannot cut into patches.

    Args:
        config: the run's options.
        sizes: sides of the views in pixels; those of full-size ones are checked by
            ``build_backbone``.

    Raises:
        UserError: a side is not a multiple of the patch's.
    """
    patch = config.model.patch_size
    if config.model.backbone == "resnet":
        return
    for size in sizes:
        if size % patch:
            raise UserError(
                f"--local_image_size must be a multiple of --patch_size={patch} with "
                f"--backbone={config.model.backbone}. Received: {size}"
            )


def resolved_encoder(config: Config, image_size: int) -> dict[str, Any]:
    """The encoder's options that depend on the images' size, spelled out for a checkpoint."""
    if config.model.backbone == "resnet":
        return {"stem": resolve_stem(config.model.stem, image_size)}
    return {"position_image_size": config.model.position_image_size or image_size}
