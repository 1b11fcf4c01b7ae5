"""The memory bank of InstDisc and CMC: one row for each training example."""

import math
from typing import Any

import keras
import tensorflow as tf

# Keeps the first rows apart from other draws that start from the run's seed.
_FIRST_ROWS = 0x62616E6B


class MemoryBank(keras.layers.Layer):
    """A slowly moving embedding of every training example (Wu et al., 2018, section 3.1).

    The first rows are uniform in (-a, a), a = sqrt(3 / dim): of length 1 on average. The rows are
    float32 under every dtype policy (float64 under float64's), belong to the model's variables, and
    stay the same on every replica as long as every replica updates with the same global rows and
    indices (``distribute.gather(rows, differentiable=False)``). They take ``4 * size * dim`` bytes
    on each replica: 0.66 GB for ImageNet and 128 numbers a row.

    Args:
        size: training examples, N.
        dim: length of a row.
        seed: of the random first rows.
        **kwargs: ``name`` and ``dtype``.

    Raises:
        ValueError: ``size`` or ``dim`` is not positive.
    """

    def __init__(self, size: int, dim: int, *, seed: int, **kwargs: Any) -> None:
        super().__init__(trainable=False, **kwargs)
        if size < 1 or dim < 1:
            raise ValueError(f"size and dim must be positive. Received: {size} and {dim}")
        self.size = size
        self.dim = dim
        self.seed = seed

        def first_rows(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
            key = tf.constant([seed ^ _FIRST_ROWS, 0], tf.int64)
            bound = math.sqrt(3 / dim)
            return tf.random.stateless_uniform(shape, key, -bound, bound, dtype, alg="philox")

        # Aggregation "none": every replica writes the same values, and nothing is communicated.
        self._rows = self.add_weight(
            shape=[size, dim],
            initializer=first_rows,
            dtype="float64" if self.variable_dtype == "float64" else "float32",
            trainable=False,
            autocast=False,
            aggregation="none",
            name="rows",
        )
        self.built = True

    def read(self) -> tf.Tensor:
        """All rows, float32 [size, dim], row i being example i's; they carry no gradient."""
        return tf.stop_gradient(tf.convert_to_tensor(self._rows))

    def lookup(self, indices: tf.Tensor) -> tf.Tensor:
        """The rows of some examples.

        Args:
            indices: int64 of any shape, examples' places in the data set.

        Returns:
            float32 [*indices.shape, dim], without gradient.
        """
        return tf.gather(self.read(), indices)

    def update(self, indices: tf.Tensor, rows: tf.Tensor, momentum: float = 0.5) -> None:
        """Moves the rows of a global batch towards its embeddings and onto the unit sphere.

        ``row <- normalized(momentum * row + (1 - momentum) * embedding)``. Of an example that the
        batch holds twice the last embedding counts. Nothing at all is written if any value is not
        finite.

        Args:
            indices: int64 [rows], the examples of the global batch, the same on every replica.
            rows: [rows, dim] their embeddings, the same on every replica.
            momentum: what a row keeps of its old value.

        Raises:
            ValueError: a momentum outside of [0, 1], or shapes that do not belong together.
        """
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1]. Received: {momentum}")
        if rows.shape.rank != 2 or rows.shape[1] != self.dim or indices.shape != rows.shape[:1]:
            raise ValueError(
                f"rows must be [rows, {self.dim}] and indices [rows]. Received: "
                f"{tuple(rows.shape)} and {tuple(indices.shape)}"
            )
        rows = tf.cast(rows, self._rows.dtype)
        finite = tf.reduce_all(tf.math.is_finite(rows))
        # Writing one place twice has no order: all of an example's places write the last value.
        numbers = tf.range(tf.shape(indices)[0])
        last = tf.gather(tf.math.unsorted_segment_max(numbers, indices, self.size), indices)
        old = self.lookup(indices)
        mixed = momentum * old + (1.0 - momentum) * tf.gather(rows, last)
        new = tf.where(finite, tf.math.l2_normalize(mixed, axis=1), old)
        self._rows.value.scatter_update(tf.IndexedSlices(new, indices))
