"""Residual networks (He et al., 2016) as contrastive learning uses them."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcontrast.models.blocks import BasicBlock, BlockOptions, Bottleneck, Group
from tfcontrast.models.convolution import Conv, build_chain
from tfcontrast.models.freezing import settle_frozen
from tfcontrast.models.sobel import sobel_gradients

DEPTHS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    10: (BasicBlock, (1, 1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
    200: (Bottleneck, (3, 24, 36, 3)),
}
STEM_STRIDES = {"imagenet": 4, "cifar": 1, "cifar_stride2": 2}
SHORTCUTS = ("torchvision", "simclr")
OUTPUT_STRIDES = (32, 16, 8)

_LARGEST_CIFAR_IMAGE = 32


def resolve_stem(stem: str, image_size: int | None) -> str:
    """The stem that ``auto`` stands for: ``cifar`` up to 32 pixels, ``imagenet`` above."""
    if stem != "auto":
        if stem not in STEM_STRIDES:
            raise ValueError(f"stem must be auto, {', '.join(STEM_STRIDES)}. Received: {stem!r}")
        return stem
    if image_size is None:
        raise ValueError("stem='auto' depends on image_size. Received: image_size=None")
    return "cifar" if image_size <= _LARGEST_CIFAR_IMAGE else "imagenet"


class Stem(keras.layers.Layer):
    """What comes before the groups.

    ``imagenet``: 7x7 convolution of stride 2 and 3x3 max pooling of stride 2; with selective
    kernels three 3x3 convolutions, the first of stride 2, replace the 7x7 (ResNet-D). ``cifar``:
    one 3x3 convolution. ``cifar_stride2``: the same with stride 2, which makes everything after it
    four times cheaper.
    """

    def __init__(self, kind: str, filters: int, *, options: BlockOptions) -> None:
        super().__init__(name="stem", dtype=options.dtype)
        self.kind = kind
        self.filters = filters
        plan = [(filters, 3, STEM_STRIDES[kind])]
        if kind == "imagenet":
            plan = [(filters, 7, 2)]
            if options.sk_ratio > 0:
                plan = [(filters // 2, 3, 2), (filters // 2, 3, 1), (filters, 3, 1)]
        self.convs, self.norms = [], []
        for i, (width, size, strides) in enumerate(plan, 1):
            self.convs.append(
                Conv(width, size, strides=strides, name=f"conv{i}", dtype=options.dtype)
            )
            self.norms.append(options.norm(f"norm{i}"))

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables."""
        channels = input_shape[-1]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            channels = build_chain(channels, [conv, norm])

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps images [B, H, W, 3] to [B, H / s, W / s, filters], s = 4, 1 or 2."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            inputs = tf.nn.relu(norm(conv(inputs), training=training))
        if self.kind == "imagenet":
            # zeros pad a maximum of rectified values as well as minus infinity does
            inputs = tf.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]])
            inputs = tf.nn.max_pool2d(inputs, 3, 2, "VALID")
        return inputs


@keras.saving.register_keras_serializable(package="tfcontrast")
class ResNet(keras.Model):
    """Images to features: stem, four groups of residual blocks, global average.

    The network is torchvision's (version 1.5: the 3x3 convolution takes a bottleneck's stride; even
    padding; He initialisation over the fan-out; batch norm with epsilon 1e-5), so that weights can
    be exchanged (``models/torchvision.py``). Widths, stems, shortcuts and attention are those of
    SimCLR's codebase where asked for.

    Args:
        depth: 10, 18, 34, 50, 101, 152 or 200.
        width_multiplier: multiplies all widths; the stem has 64 times this many channels.
        stem: ``imagenet``, ``cifar``, ``cifar_stride2`` or ``auto`` (by ``image_size``: ``cifar``
            up to 32 pixels).
        image_size: side of the images that the network is for; only ``auto`` reads it. Any size can
            be passed.
        shortcut: ``torchvision`` projects where the shape changes; ``simclr`` in the first block of
            every group.
        sk_ratio: above 0, selective kernels with this reduction and ResNet-D's stem and shortcuts
            (SimCLR v2: 0.0625).
        se_ratio: above 0, squeeze-and-excitation with this reduction.
        output_stride: the last group's map is at most so many times smaller than the image (as
            counted with 32 pixels a cell for the ImageNet stem): groups that would shrink it
            further dilate their kernels instead.
        zero_init_last_gamma: start each residual branch at zero (Goyal et al., 2017).
        batch_norm_decay: what the moving statistics keep of their old value at each step.
        global_bn: take batch norm's statistics over all replicas.
        batch_norm_splits: groups of the global batch that batch norm normalises by themselves
            instead, as that many devices would; ``forward_views`` then passes each view alone.
        input_mean: subtracted from the images' channels; None for 0.
        input_std: divides the images' channels; None for 1.
        remat: in training, keep each block's inputs alone for the gradient, and compute the rest
            again on the way back.
        sobel: let the first layer see the image's gradients in place of its colours (DeepCluster).
        **kwargs: ``name`` and ``dtype`` (a policy; features are float32 also under
            ``mixed_bfloat16``).

    Raises:
        ValueError: a value is not one of those above.
    """

    def __init__(
        self,
        *,
        depth: int = 50,
        width_multiplier: float = 1.0,
        stem: str = "auto",
        image_size: int | None = None,
        shortcut: str = "torchvision",
        sk_ratio: float = 0.0,
        se_ratio: float = 0.0,
        output_stride: int = 32,
        zero_init_last_gamma: bool = False,
        batch_norm_decay: float = 0.9,
        global_bn: bool = True,
        batch_norm_splits: int = 1,
        input_mean: Sequence[float] | None = None,
        input_std: Sequence[float] | None = None,
        remat: bool = False,
        sobel: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", "resnet")
        super().__init__(autocast=False, **kwargs)  # the images are normalised in float32
        _check_shape(depth, shortcut, output_stride, width_multiplier)
        self._config: dict[str, Any] = {
            "depth": depth,
            "width_multiplier": width_multiplier,
            "stem": stem,
            "image_size": image_size,
            "shortcut": shortcut,
            "sk_ratio": sk_ratio,
            "se_ratio": se_ratio,
            "output_stride": output_stride,
            "zero_init_last_gamma": zero_init_last_gamma,
            "batch_norm_decay": batch_norm_decay,
            "global_bn": global_bn,
            "batch_norm_splits": batch_norm_splits,
            "input_mean": None if input_mean is None else list(input_mean),
            "input_std": None if input_std is None else list(input_std),
            "remat": remat,
            "sobel": sobel,
        }
        options = BlockOptions(
            batch_norm_decay=batch_norm_decay,
            global_bn=global_bn,
            batch_norm_splits=batch_norm_splits,
            sk_ratio=sk_ratio,
            se_ratio=se_ratio,
            zero_init_last_gamma=zero_init_last_gamma,
            remat=remat,
            dtype=self.dtype_policy,
        )
        width = max(1, round(64 * width_multiplier))
        self.stem = Stem(resolve_stem(stem, image_size), width, options=options)
        self.groups = self._make_groups(width, options)
        self.num_groups = len(self.groups)
        self.feature_dim = self.groups[-1].filters
        self.batch_norm_splits = batch_norm_splits

    def _make_groups(self, width: int, options: BlockOptions) -> list[Group]:
        block, counts = DEPTHS[self._config["depth"]]
        channels, total, dilation = width, STEM_STRIDES[self.stem.kind], 1
        groups = []
        for i, count in enumerate(counts):
            strides, first_dilation = (1 if i == 0 else 2), dilation
            if total * strides > self._config["output_stride"]:
                dilation, strides = dilation * strides, 1
            total *= strides
            filters = width * 2**i * block.expansion
            changes = i > 0 or filters != channels
            groups.append(
                Group(
                    block,
                    width * 2**i,
                    blocks=count,
                    strides=strides,
                    dilations=(first_dilation, dilation),
                    project=changes or self._config["shortcut"] == "simclr",
                    options=options,
                    name=f"group{i + 1}",
                )
            )
            channels = filters
        return groups

    def _stages(self) -> list[keras.Layer]:
        return [self.stem, *self.groups]

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables; only the number of channels matters."""
        channels = input_shape[-1]
        for name in ("input_mean", "input_std"):
            values = self._config[name]
            if values is not None and len(values) != channels:
                raise ValueError(f"{name} needs {channels} values. Received: {values}")
        build_chain(2 if self._config["sobel"] else channels, self._stages())
        settle_frozen(self._stages())

    def freeze(self, last_group: int) -> None:
        """Makes the stem and the groups up to this one untrainable, their batch norm with them.

        Args:
            last_group: 0 freezes the stem alone, 4 the whole network, -1 nothing.

        Raises:
            ValueError: there is no such group.
        """
        if not -1 <= last_group <= len(self.groups):
            raise ValueError(
                f"last_group must be between -1 and {len(self.groups)}. Received: {last_group}"
            )
        for layer in self._stages()[: last_group + 1]:
            layer.trainable = False

    def endpoints(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """All stages' outputs.

        Args:
            images: [B, H, W, 3] in [0, 1].
            training: whether batch norm uses the batch's statistics.

        Returns:
            ``stem``, ``group1`` to ``group4`` [B, h, w, c] in the compute dtype, and ``features``
            [B, D] in float32.
        """
        if not self.built:
            self.build(tuple(images.shape))
        x = images
        if self._config["input_mean"] is not None:
            x -= tf.constant(self._config["input_mean"], x.dtype)
        if self._config["input_std"] is not None:
            x /= tf.constant(self._config["input_std"], x.dtype)
        if self._config["sobel"]:
            x = sobel_gradients(x)
        outputs = {}
        for layer in self._stages():
            x = layer(x, training=training)
            outputs[layer.name] = x
        outputs["features"] = tf.reduce_mean(
            x if x.dtype == tf.float64 else tf.cast(x, tf.float32), [1, 2]
        )
        return outputs

    def call(self, images: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps images [B, H, W, 3] in [0, 1] to features [B, D], float32."""
        return self.endpoints(images, training)["features"]

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, D]."""
        return (input_shape[0], self.feature_dim)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        base = {"name": self.name, "dtype": keras.dtype_policies.serialize(self.dtype_policy)}
        return {**base, **self._config}


def _check_shape(depth: int, shortcut: str, output_stride: int, width_multiplier: float) -> None:
    for name, value, accepted in (
        ("depth", depth, tuple(DEPTHS)),
        ("shortcut", shortcut, SHORTCUTS),
        ("output_stride", output_stride, OUTPUT_STRIDES),
    ):
        if value not in accepted:
            raise ValueError(f"{name} must be one of {accepted}. Received: {value!r}")
    if width_multiplier <= 0:
        raise ValueError(f"width_multiplier must be positive. Received: {width_multiplier}")
