"""A vision transformer's block: attention, perceptron, and the dropping of either."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

INITIALIZATIONS = ("dino", "moco_v3")


def dense_initializer(kind: str, fan_in: int, fan_out: int) -> keras.initializers.Initializer:
    """A new initialiser of a dense layer's kernel.

    Args:
        kind: ``dino``: normal of deviation 0.02 (PyTorch's ``trunc_normal_`` cuts at -2 and 2, a
            hundred deviations away); ``moco_v3``: uniform in +-sqrt(6 / (fan_in + fan_out)).
        fan_in: inputs.
        fan_out: outputs that belong together: query, key and value count one by one.
    """
    if kind == "dino":
        return keras.initializers.RandomNormal(stddev=0.02)
    limit = float(np.sqrt(6.0 / (fan_in + fan_out)))
    return keras.initializers.RandomUniform(-limit, limit)


def exact_dtype(layer: keras.Layer) -> str:
    """What norms, softmax and sums along the depth compute in: float32, or float64 as asked."""
    return "float64" if layer.variable_dtype == "float64" else "float32"


def layer_norm(name: str, dtype: str) -> keras.layers.LayerNormalization:
    """Layer normalisation as every vision transformer has it: epsilon 1e-6."""
    return keras.layers.LayerNormalization(epsilon=1e-6, name=name, dtype=dtype)


class Attention(keras.layers.Layer):
    """Multi-head self-attention (Vaswani et al., 2017, section 3.2) with biases.

    One kernel makes query, key and value, in this order, each its heads one after another: timm's
    layout. The softmax is taken in float32.

    Args:
        num_heads: divides the width.
        initialization: see ``dense_initializer``.
        **kwargs: ``name`` and ``dtype``.
    """

    def __init__(self, num_heads: int, *, initialization: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.initialization = initialization

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables."""
        width = input_shape[-1]
        for name, units in (("qkv", 3 * width), ("output_dense", width)):
            kernel = dense_initializer(self.initialization, width, width)
            dense = keras.layers.Dense(
                units, kernel_initializer=kernel, name=name, dtype=self.dtype_policy
            )
            dense.build((None, None, width))
            setattr(self, name, dense)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps tokens [B, N, D] to [B, N, D]."""
        width = x.shape[-1]
        tokens = tf.shape(x)[1] if x.shape[1] is None else x.shape[1]
        depth = width // self.num_heads
        qkv = tf.reshape(self.qkv(x), [-1, tokens, 3, self.num_heads, depth])
        query, key, value = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]))
        logits = tf.matmul(query * depth**-0.5, key, transpose_b=True)
        shares = tf.nn.softmax(tf.cast(logits, exact_dtype(self)))
        mixed = tf.matmul(tf.cast(shares, value.dtype), value)
        return self.output_dense(tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, tokens, width]))


class TransformerBlock(keras.layers.Layer):
    """A pre-norm block (Dosovitskiy et al., 2021): x + attention(norm(x)), x + mlp(norm(x)).

    The perceptron is four times as wide inside and has an exact GELU. The tokens stay in float32
    under ``mixed_bfloat16``: only the products within the branches are narrower.

    Args:
        num_heads: divides the width.
        initialization: see ``dense_initializer``.
        **kwargs: ``name`` and ``dtype``.
    """

    def __init__(self, num_heads: int, *, initialization: str, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.initialization = initialization
        self.norm1 = layer_norm("norm1", exact_dtype(self))
        self.attention = Attention(
            num_heads, initialization=initialization, name="attention", dtype=self.dtype_policy
        )
        self.norm2 = layer_norm("norm2", exact_dtype(self))

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables."""
        width = input_shape[-1]
        for layer in (self.norm1, self.attention, self.norm2):
            layer.build((None, None, width))
        for name, fan_in, units in (("dense1", width, 4 * width), ("dense2", 4 * width, width)):
            kernel = dense_initializer(self.initialization, fan_in, units)
            dense = keras.layers.Dense(
                units, kernel_initializer=kernel, name=name, dtype=self.dtype_policy
            )
            dense.build((None, None, fan_in))
            setattr(self, name, dense)

    def call(self, x: tf.Tensor, factors: tf.Tensor | None = None) -> tf.Tensor:
        """Maps tokens [B, N, D] to [B, N, D].

        Args:
            x: the tokens.
            factors: [2, B], what multiplies each example's two branches; None for 1.
        """
        attended = tf.cast(self.attention(self.norm1(x)), x.dtype)
        x += attended if factors is None else attended * factors[0][:, None, None]
        inner = tf.nn.gelu(self.dense1(self.norm2(x)))
        widened = tf.cast(self.dense2(inner), x.dtype)
        return x + (widened if factors is None else widened * factors[1][:, None, None])
