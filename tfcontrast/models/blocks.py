"""Residual blocks: shortcut, basic block, bottleneck, and a group of blocks."""

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfcontrast.models.attention import SelectiveKernelConv, SqueezeExcite
from tfcontrast.models.batch_norm import BatchNorm
from tfcontrast.models.convolution import Conv, build_chain
from tfcontrast.models.remat import rematerialized


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """What all blocks of a network have in common; the fields are ``ResNet``'s arguments."""

    batch_norm_decay: float = 0.9
    global_bn: bool = True
    batch_norm_splits: int = 1
    sk_ratio: float = 0.0
    se_ratio: float = 0.0
    zero_init_last_gamma: bool = False
    remat: bool = False
    dtype: Any = None

    def norm(self, name: str, *, last: bool = False) -> BatchNorm:
        """A batch norm; ``last`` in its residual branch, where the factor may start at zero."""
        return BatchNorm(
            momentum=self.batch_norm_decay,
            epsilon=1e-5,
            gamma_initializer="zeros" if last and self.zero_init_last_gamma else "ones",
            synchronized=self.global_bn,
            splits=self.batch_norm_splits,
            name=name,
            dtype=self.dtype,
        )

    def squeeze_excite(self, channels: int) -> SqueezeExcite | None:
        """Squeeze-and-excitation for a block of this inner width, if the network has it."""
        if self.se_ratio <= 0:
            return None
        reduced = max(1, int(channels * self.se_ratio))
        return SqueezeExcite(reduced, name="squeeze_excite", dtype=self.dtype)


class Shortcut(keras.layers.Layer):
    """Projects a block's input to its output's shape: 1x1 convolution and batch norm.

    With selective kernels it is ResNet-D's (He et al., 2019, section 4): a 2x2 average takes the
    stride, so that no activation is passed over; the input is padded by a zero row and column at
    its end first, as SimCLR v2 does.
    """

    def __init__(self, filters: int, *, strides: int, options: BlockOptions, name: str) -> None:
        super().__init__(name=name, dtype=options.dtype)
        self.filters = filters
        self.pool_strides = strides if options.sk_ratio > 0 else 0
        self.conv = Conv(
            filters,
            1,
            strides=1 if self.pool_strides else strides,
            name="conv",
            dtype=options.dtype,
        )
        self.norm = options.norm("norm")

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables."""
        build_chain(input_shape[-1], [self.conv, self.norm])

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Projects [B, H, W, C] to [B, H / strides, W / strides, filters]."""
        if self.pool_strides == 1:
            inputs = tf.nn.avg_pool2d(inputs, 2, 1, "SAME")
        elif self.pool_strides:
            inputs = tf.pad(inputs, [[0, 0], [0, 1], [0, 1], [0, 0]])
            inputs = tf.nn.avg_pool2d(inputs, 2, self.pool_strides, "VALID")
        return self.norm(self.conv(inputs), training=training)


class BasicBlock(keras.layers.Layer):
    """Two 3x3 convolutions and a shortcut (He et al., 2016, figure 5 left).

    Args:
        channels: output channels.
        strides: of the first convolution.
        dilations: of both convolutions.
        project: whether the shortcut is a projection; else it is the identity.
        options: the network's.
        name: of the layer.
    """

    expansion = 1

    def __init__(
        self,
        channels: int,
        *,
        strides: int,
        dilations: tuple[int, int],
        project: bool,
        options: BlockOptions,
        name: str,
    ) -> None:
        dtype = options.dtype
        super().__init__(name=name, dtype=dtype)
        self.filters = channels
        self.conv1 = Conv(
            channels, 3, strides=strides, dilation=dilations[0], name="conv1", dtype=dtype
        )
        self.norm1 = options.norm("norm1")
        self.conv2 = Conv(channels, 3, dilation=dilations[1], name="conv2", dtype=dtype)
        self.norm2 = options.norm("norm2", last=True)
        self.squeeze_excite = options.squeeze_excite(channels)
        self.shortcut = (
            Shortcut(channels, strides=strides, options=options, name="shortcut")
            if project
            else None
        )

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables."""
        build_chain(input_shape[-1], [self.conv1, self.norm1, self.conv2, self.norm2])
        _build_extras(self, input_shape[-1])

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps [B, H, W, C] to [B, H / strides, W / strides, channels]."""
        x = tf.nn.relu(self.norm1(self.conv1(inputs), training=training))
        x = self.norm2(self.conv2(x), training=training)
        return _join(self, x, inputs, training)


class Bottleneck(keras.layers.Layer):
    """1x1, 3x3, 1x1 convolution and a shortcut (He et al., 2016, figure 5 right).

    The 3x3 takes the stride, as in torchvision, not the first 1x1, as in the paper.

    Args:
        channels: inner channels; the output has four times as many.
        strides: of the 3x3 convolution.
        dilations: the first is the 3x3 convolution's.
        project: whether the shortcut is a projection; else it is the identity.
        options: the network's. With ``sk_ratio`` a selective-kernel convolution replaces the 3x3.
        name: of the layer.
    """

    expansion = 4

    def __init__(
        self,
        channels: int,
        *,
        strides: int,
        dilations: tuple[int, int],
        project: bool,
        options: BlockOptions,
        name: str,
    ) -> None:
        dtype = options.dtype
        super().__init__(name=name, dtype=dtype)
        self.filters = channels * self.expansion
        self.conv1 = Conv(channels, 1, name="conv1", dtype=dtype)
        self.norm1 = options.norm("norm1")
        self.selective_kernel: SelectiveKernelConv | None = None
        self.conv2: Conv | None = None
        self.norm2: BatchNorm | None = None
        if options.sk_ratio > 0:
            self.selective_kernel = SelectiveKernelConv(
                channels,
                strides=strides,
                dilation=dilations[0],
                ratio=options.sk_ratio,
                norm=options.norm,
                name="selective_kernel",
                dtype=dtype,
            )
        else:
            self.conv2 = Conv(
                channels, 3, strides=strides, dilation=dilations[0], name="conv2", dtype=dtype
            )
            self.norm2 = options.norm("norm2")
        self.conv3 = Conv(self.filters, 1, name="conv3", dtype=dtype)
        self.norm3 = options.norm("norm3", last=True)
        self.squeeze_excite = options.squeeze_excite(channels)
        self.shortcut = (
            Shortcut(self.filters, strides=strides, options=options, name="shortcut")
            if project
            else None
        )

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables."""
        middle = [self.selective_kernel] if self.conv2 is None else [self.conv2, self.norm2]
        build_chain(input_shape[-1], [self.conv1, self.norm1, *middle, self.conv3, self.norm3])
        _build_extras(self, input_shape[-1])

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps [B, H, W, C] to [B, H / strides, W / strides, 4 channels]."""
        x = tf.nn.relu(self.norm1(self.conv1(inputs), training=training))
        if self.conv2 is not None and self.norm2 is not None:
            x = tf.nn.relu(self.norm2(self.conv2(x), training=training))
        elif self.selective_kernel is not None:
            x = self.selective_kernel(x, training=training)
        x = self.norm3(self.conv3(x), training=training)
        return _join(self, x, inputs, training)


def _build_extras(block: BasicBlock | Bottleneck, channels: int) -> None:
    if block.squeeze_excite is not None:
        block.squeeze_excite.build((None, None, None, block.filters))
    if block.shortcut is not None:
        block.shortcut.build((None, None, None, channels))


def _join(
    block: BasicBlock | Bottleneck, branch: tf.Tensor, inputs: tf.Tensor, training: bool
) -> tf.Tensor:
    """Adds a block's residual branch to its shortcut."""
    if block.squeeze_excite is not None:
        branch = block.squeeze_excite(branch)
    if block.shortcut is not None:
        inputs = block.shortcut(inputs, training=training)
    return tf.nn.relu(branch + inputs)


class Group(keras.layers.Layer):
    """Blocks of one width; the first may change the shape.

    Args:
        block: ``BasicBlock`` or ``Bottleneck``.
        channels: inner width of the blocks.
        blocks: how many.
        strides: of the first block.
        dilations: of the first block's first wide convolution, and of all others.
        project: whether the first block's shortcut is a projection.
        options: the network's.
        name: of the layer.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        channels: int,
        *,
        blocks: int,
        strides: int,
        dilations: tuple[int, int],
        project: bool,
        options: BlockOptions,
        name: str,
    ) -> None:
        super().__init__(name=name, dtype=options.dtype)
        self.filters = channels * block.expansion
        self.remat = options.remat
        self.blocks = [
            block(
                channels,
                strides=strides if i == 0 else 1,
                dilations=dilations if i == 0 else (dilations[1], dilations[1]),
                project=project and i == 0,
                options=options,
                name=f"block{i + 1}",
            )
            for i in range(blocks)
        ]

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables."""
        build_chain(input_shape[-1], self.blocks)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps [B, H, W, C] to [B, H / strides, W / strides, filters]."""
        for block in self.blocks:
            if self.remat and training:
                inputs = rematerialized(block, inputs, training=True)
            else:
                inputs = block(inputs, training=training)
        return inputs
