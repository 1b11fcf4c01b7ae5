"""Channel attention inside residual blocks: selective kernels and squeeze-and-excitation."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfcontrast.models.batch_norm import BatchNorm
from tfcontrast.models.convolution import Conv, build_chain

_LEAST_SK_CHANNELS = 32


class SelectiveKernelConv(keras.layers.Layer):
    """Two 3x3 streams, mixed per channel by a softmax (Li et al., 2019, as in SimCLR v2).

    One convolution makes both streams. Their sum's spatial mean passes a small bottleneck that
    gives one logit per stream and channel; the output is the streams' average by the softmax over
    the two.

    Args:
        filters: output channels, also of each stream.
        strides: of the convolution.
        dilation: of the convolution.
        ratio: width of the bottleneck relative to ``filters``; at least 32 channels remain.
        norm: makes a batch norm of a name.
        **kwargs: ``name`` and ``dtype``.
    """

    def __init__(
        self,
        filters: int,
        *,
        strides: int,
        dilation: int,
        ratio: float,
        norm: Callable[[str], BatchNorm],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.filters = filters
        reduced = max(int(filters * ratio), _LEAST_SK_CHANNELS)
        self.conv = Conv(
            2 * filters, 3, strides=strides, dilation=dilation, name="conv", dtype=policy
        )
        self.norm = norm("norm")
        self.reduce = Conv(reduced, 1, name="reduce", dtype=policy)
        self.reduce_norm = norm("reduce_norm")
        self.expand = Conv(2 * filters, 1, name="expand", dtype=policy)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables."""
        build_chain(input_shape[-1], [self.conv, self.norm])
        build_chain(self.filters, [self.reduce, self.reduce_norm, self.expand])

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps [B, H, W, C] to [B, H / strides, W / strides, filters]."""
        x = tf.nn.relu(self.norm(self.conv(inputs), training=training))
        streams = tf.split(x, 2, axis=-1)
        context = tf.reduce_mean(tf.add_n(streams), [1, 2], keepdims=True)
        context = tf.nn.relu(self.reduce_norm(self.reduce(context), training=training))
        logits = tf.split(self.expand(context), 2, axis=-1)
        first = tf.sigmoid(logits[0] - logits[1])  # the softmax of two
        return first * streams[0] + (1.0 - first) * streams[1]


class SqueezeExcite(keras.layers.Layer):
    """Scales each channel by a gate that sees all channels (Hu et al., 2018, eq. 2 to 4).

    Args:
        reduced: width of the hidden layer.
        **kwargs: ``name`` and ``dtype``.
    """

    def __init__(self, reduced: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reduced = reduced

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables."""
        policy, channels = self.dtype_policy, input_shape[-1]
        self.reduce = keras.layers.Dense(self.reduced, "relu", name="reduce", dtype=policy)
        self.reduce.build((None, channels))
        self.expand = keras.layers.Dense(channels, "sigmoid", name="expand", dtype=policy)
        self.expand.build((None, self.reduced))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Gates [B, H, W, C]."""
        gates = self.expand(self.reduce(tf.reduce_mean(inputs, [1, 2])))
        return inputs * gates[:, None, None]
