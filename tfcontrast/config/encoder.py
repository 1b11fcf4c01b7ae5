"""The options of the encoder."""

import dataclasses

from tfcontrast.config.option import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder."""

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
    input_normalization: str = option(
        "none",
        "Mean and deviation that the encoder subtracts and divides by.",
        choices=("none", "imagenet", "cifar10", "cifar100", "half"),
    )
    sobel: bool = option(
        False, "The encoder sees Sobel gradients of the grey image, not colours (DeepCluster)."
    )
    precision: str = option(
        "float32",
        "float32 or bfloat16 compute; losses and state stay float32.",
        choices=("float32", "bfloat16"),
    )
