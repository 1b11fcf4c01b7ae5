"""A vision transformer's first layer: images to tokens that know their place."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcontrast.errors import UserError
from tfcontrast.models.vit_block import exact_dtype
from tfcontrast.models.vit_positions import resize_positions, sincos_positions

POSITIONS = ("learned", "sincos")


def grid_sides(image: int, patch_size: int) -> int:
    """How many patches lie along a side of this many pixels.

    Raises:
        UserError: a part of a patch is left over.
    """
    if image < patch_size or image % patch_size:
        raise UserError(
            f"A vision transformer's --image_size must be a multiple of its patch size "
            f"{patch_size}. Received: {image}"
        )
    return image // patch_size


class PatchEmbedding(keras.layers.Layer):
    """Patches to tokens: one linear projection, a [CLS] token before them, positions added.

    Args:
        width: channels of a token.
        patch_size: side of a patch in pixels.
        image_size: side of the images whose positions are learned; other sizes take interpolated
            ones, see ``resize_matrix``.
        positions: ``learned`` or ``sincos`` (fixed, zero at [CLS]; MoCo v3).
        class_token: whether there is a [CLS] token.
        frozen: the projection stays as it starts (MoCo v3, section 4).
        initialization: ``dino``: projection as PyTorch's (uniform in +-1 / sqrt(fan-in), bias too),
            [CLS] and positions normal of deviation 0.02; ``moco_v3``: projection uniform in
            +-sqrt(6 / (fan-in + width)), bias zero, [CLS] normal of deviation 1e-6.
        **kwargs: ``name`` and ``dtype``.
    """

    def __init__(
        self,
        width: int,
        *,
        patch_size: int,
        image_size: int,
        positions: str,
        class_token: bool,
        frozen: bool,
        initialization: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.width = width
        self.patch_size = patch_size
        self.side = grid_sides(image_size, patch_size)
        self.has_class_token = class_token
        self.frozen = frozen
        self.initialization = initialization
        self.sincos = None
        if positions == "sincos":
            self.sincos = sincos_positions(self.side, self.side, width)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables: projection, [CLS], positions; only the channels matter."""
        self.projection = self._make_projection(input_shape[-1])
        self.projection.build((None, None, None, input_shape[-1]))
        # Frozen twice over: out of the optimizer's sight, and stopped in ``call`` in case that
        # someone sets the whole model's ``trainable``.
        self.projection.trainable = not self.frozen
        start = 0.02 if self.initialization == "dino" else 1e-6
        self.class_token = self.positions = None
        if self.has_class_token:
            self.class_token = self._add_tokens("class_token", 1, start)
        if self.sincos is None:
            count = self.side**2 + int(self.has_class_token)
            self.positions = self._add_tokens("positions", count, 0.02)

    def _make_projection(self, channels: int) -> keras.layers.Conv2D:
        fan_in = channels * self.patch_size**2
        bias: Any = "zeros"
        limit = float(np.sqrt(6.0 / (fan_in + self.width)))
        if self.initialization == "dino":
            limit = fan_in**-0.5
            bias = keras.initializers.RandomUniform(-limit, limit)
        return keras.layers.Conv2D(
            self.width,
            self.patch_size,
            strides=self.patch_size,
            data_format="channels_last",
            kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
            bias_initializer=bias,
            name="projection",
            dtype=self.dtype_policy,
        )

    def _add_tokens(self, name: str, count: int, stddev: float) -> keras.Variable:
        """Rank 3, so that weight decay counts them as weights, as the sources' code does."""
        return self.add_weight(
            shape=(1, count, self.width),
            initializer=keras.initializers.RandomNormal(stddev=stddev),
            name=name,
            autocast=False,
        )

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Maps images [B, H, W, C] to tokens [B, N, width], float32.

        Raises:
            UserError: a side is not a multiple of the patch size.
        """
        for axis in (1, 2):
            if images.shape[axis] is not None:
                grid_sides(images.shape[axis], self.patch_size)
            else:  # in an exported module: the convolution would cut a remainder off
                tf.debugging.assert_equal(
                    tf.shape(images)[axis] % self.patch_size,
                    0,
                    f"images must have sides that are multiples of {self.patch_size}",
                )
        x = self.projection(images)
        if self.frozen:
            x = tf.stop_gradient(x)
        x = tf.cast(x, exact_dtype(self))
        shape = tf.shape(x)
        batch, height, width = (x.shape[i] or shape[i] for i in range(3))
        x = tf.reshape(x, [batch, height * width, self.width])
        first, rest = self._position_parts(x.dtype)
        x += resize_positions(rest, (self.side, self.side), (height, width))
        if self.class_token is None:
            return x
        token = tf.convert_to_tensor(self.class_token) + first
        return tf.concat([tf.broadcast_to(token, [batch, 1, self.width]), x], axis=1)

    def _position_parts(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        """[CLS]'s position, and the patches' [cells, width]."""
        if self.positions is None:
            return tf.zeros([], dtype), tf.constant(self.sincos, dtype)
        positions = tf.convert_to_tensor(self.positions)[0]
        split = int(self.has_class_token)
        return positions[:split], positions[split:]
