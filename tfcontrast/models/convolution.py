"""The convolution of every residual network here: no bias, PyTorch's padding and initial values."""

from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfcontrast.distribute import has_accelerator


class Conv(keras.layers.Conv2D):
    """A convolution without bias, padded by ``dilation (k - 1) / 2`` on both sides.

    TensorFlow's SAME pads a strided convolution unevenly (by 0 and 1 for k = 3 and an even side),
    so that weights that were trained with even padding lose accuracy. Where both agree, without
    stride, SAME is used. Elsewhere an accelerator's op pads by itself, which costs no copy; on
    processors the input is padded first, since TensorFlow leaves the gradients of an op with
    explicit padding to slower kernels than oneDNN's. The kernel starts with He's normal
    distribution over the fan-out.

    Args:
        filters: output channels.
        kernel_size: side of the kernel, odd.
        strides: of the output.
        dilation: distance of the kernel's taps; not together with strides.
        **kwargs: ``name`` and ``dtype``.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        *,
        strides: int = 1,
        dilation: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            filters,
            kernel_size,
            strides=strides,
            padding="same",
            dilation_rate=dilation,
            data_format="channels_last",
            use_bias=False,
            kernel_initializer=keras.initializers.VarianceScaling(
                2.0, "fan_out", "untruncated_normal"
            ),
            **kwargs,
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Convolves [B, H, W, C] to [B, ceil(H / strides), ceil(W / strides), filters]."""
        if self.strides == (1, 1):
            return super().call(inputs)
        pad = [(size - 1) // 2 for size in self.kernel_size]
        padding: Any = [[0, 0], [pad[0], pad[0]], [pad[1], pad[1]], [0, 0]]
        if not any(pad):
            padding = "VALID"
        elif not has_accelerator():
            inputs, padding = tf.pad(inputs, padding), "VALID"
        return tf.nn.conv2d(inputs, tf.convert_to_tensor(self.kernel), self.strides, padding)


def build_chain(channels: int, layers: Iterable[keras.Layer]) -> int:
    """Builds layers that follow each other, for any image size; returns the last one's channels."""
    for layer in layers:
        layer.build((None, None, None, channels))
        channels = getattr(layer, "filters", channels)
    return channels
