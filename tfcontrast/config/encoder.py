"""The options of the encoder."""

import dataclasses

from tfcontrast.config.option import option

# The options that only one kind of network has.
_RESNET_ONLY = frozenset(
    [
        "resnet_depth",
        "width_multiplier",
        "stem",
        "sk_ratio",
        "se_ratio",
        "shortcut",
        "output_stride",
        "zero_init_last_gamma",
        "batch_norm_decay",
        "batch_norm_splits",
        "sobel",
    ]
)
_VIT_ONLY = frozenset(
    [
        "patch_size",
        "num_heads",
        "position_embedding",
        "position_image_size",
        "vit_initialization",
        "freeze_patch_embedding",
        "drop_path_rate",
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder."""

    backbone: str = option(
        "resnet",
        "The network: a ResNet, or a vision transformer of one of three sizes.",
        choices=("resnet", "vit_tiny", "vit_small", "vit_base"),
    )
    resnet_depth: int = option(50, "Layers of the ResNet.", choices=(10, 18, 34, 50, 101, 152, 200))
    width_multiplier: float = option(
        1.0, "Multiplies every width of the ResNet; may be a fraction.", low=0.01, high=16
    )
    stem: str = option(
        "auto",
        "First layers: imagenet (7x7 stride 2, pool), cifar (3x3), cifar_stride2 (3x3 stride 2); "
        "auto: by image_size.",
        choices=("auto", "imagenet", "cifar", "cifar_stride2"),
    )
    sk_ratio: float = option(
        0.0, "Selective kernels' ratio; 0: none (SimCLR v2: 0.0625).", low=0, high=1
    )
    se_ratio: float = option(0.0, "Squeeze-and-excitation ratio; 0: none.", low=0, high=1)
    shortcut: str = option(
        "torchvision",
        "Projection shortcuts: where shapes change (torchvision), or also in the first group "
        "(simclr).",
        choices=("torchvision", "simclr"),
    )
    output_stride: int = option(
        32, "Stride of the last group; below 32 by dilated convolutions.", choices=(32, 16, 8)
    )
    zero_init_last_gamma: bool = option(True, "Start every residual branch at zero.")
    batch_norm_decay: float = option(0.9, "Decay of batch norm's moving statistics.", low=0, high=1)
    global_bn: bool = option(True, "Batch-norm statistics over all replicas.")
    batch_norm_splits: int = option(
        1,
        "Groups of the global batch with batch-norm statistics of their own in the encoder, as on "
        "that many devices; from 2 on it goes over global_bn.",
        low=1,
    )
    patch_size: int = option(
        16, "Vision transformer: side of a patch; divides the views' sides.", low=1
    )
    num_heads: int = option(
        0,
        "Vision transformer: heads of the attention; 0: the size's own (MoCo v3: 12 for "
        "vit_small).",
        low=0,
    )
    position_embedding: str = option(
        "learned",
        "Vision transformer: learned positions, or fixed sines and cosines (MoCo v3).",
        choices=("learned", "sincos"),
    )
    position_image_size: int = option(
        0,
        "Vision transformer: side of the images that its positions are for, others take "
        "interpolated ones; 0: image_size.",
        low=0,
    )
    vit_initialization: str = option(
        "dino",
        "Vision transformer: whose first weights, DINO's or MoCo v3's.",
        choices=("dino", "moco_v3"),
    )
    freeze_patch_embedding: bool = option(
        False, "Vision transformer: leave the patches' projection as it starts (MoCo v3)."
    )
    drop_path_rate: float = option(
        0.0,
        "Vision transformer: probability of dropping a branch of the last block; less before it.",
        low=0,
        high=0.9,
    )
    input_normalization: str = option(
        "none",
        "Mean and deviation that the encoder subtracts and divides by.",
        choices=("none", "imagenet", "cifar10", "cifar100", "half"),
    )
    sobel: bool = option(
        False, "The encoder sees Sobel gradients of the grey image, not colours (DeepCluster)."
    )
    remat: bool = option(
        False,
        "Keep only the inputs of the encoder's blocks for the gradient and compute the rest again: "
        "less memory, one more forward pass of them.",
    )
    precision: str = option(
        "float32",
        "float32 or bfloat16 compute; losses and state stay float32.",
        choices=("float32", "bfloat16"),
    )


def foreign_options(backbone: str) -> frozenset[str]:
    """The encoder's options that this ``backbone`` has no use for."""
    return _VIT_ONLY if backbone == "resnet" else _RESNET_ONLY
