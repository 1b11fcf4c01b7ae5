"""The queue of past embeddings that MoCo, NNCLR, SwAV and others look up."""

from typing import Any

import keras
import tensorflow as tf

# Keeps the first rows apart from other draws that start from the run's seed.
_FIRST_ROWS = 0x71756575


class Queue(keras.layers.Layer):
    """The newest rows of the global batches, first in, first out (He et al., 2020, section 3.2).

    It starts as random rows of length 1. What is pushed is written as it is; the rows after the
    last place continue at the first one, so that ``size`` need not be a multiple of the batch. All
    of its state is float32 or int64 under every dtype policy (float64 under float64's), belongs to
    the model's variables, and stays the same on every replica as long as every replica pushes the
    same global rows (``distribute.gather(rows, differentiable=False)``). A float32 queue takes
    ``size * (4 * dim + 8)`` bytes on each replica, with labels ``8 * size`` more.

    Args:
        size: rows that it holds, K.
        dim: length of a row.
        seed: of the random first rows.
        with_labels: keep an int64 label beside each row; those of the first rows are -1.
        **kwargs: ``name`` and ``dtype``.

    Raises:
        ValueError: ``size`` or ``dim`` is not positive.
    """

    def __init__(
        self, size: int, dim: int, *, seed: int, with_labels: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(trainable=False, **kwargs)
        if size < 1 or dim < 1:
            raise ValueError(f"size and dim must be positive. Received: {size} and {dim}")
        self.size = size
        self.dim = dim
        self.seed = seed

        def first_rows(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
            key = tf.constant([seed ^ _FIRST_ROWS, 0], tf.int64)
            rows = tf.random.stateless_normal(shape, key, dtype=dtype, alg="philox")
            return tf.math.l2_normalize(rows, axis=1)

        floats = "float64" if self.variable_dtype == "float64" else "float32"
        self._rows = self._state("rows", [size, dim], floats, first_rows)
        self._labels = None
        if with_labels:
            minus_one = keras.initializers.Constant(-1)
            self._labels = self._state("labels", [size], "int64", minus_one)
        self._cursor = self._state("cursor", [], "int64", "zeros")
        self._pushes = self._state("pushes", [], "int64", "zeros")
        self._pushed_at = self._state("pushed_at", [size], "int64", "zeros")
        self.built = True

    def _state(self, name: str, shape: list[int], dtype: str, initializer: Any) -> keras.Variable:
        # Aggregation "none": every replica writes the same values, and nothing is communicated.
        return self.add_weight(
            shape=shape,
            initializer=initializer,
            dtype=dtype,
            trainable=False,
            autocast=False,
            aggregation="none",
            name=name,
        )

    def read(self) -> tf.Tensor:
        """All rows, float32 [size, dim], in no particular order; they carry no gradient."""
        return tf.stop_gradient(tf.convert_to_tensor(self._rows))

    def read_labels(self) -> tf.Tensor:
        """The rows' labels, int64 [size]; -1 where the row is a first one.

        Raises:
            ValueError: the queue was made without labels.
        """
        if self._labels is None:
            raise ValueError("this queue keeps no labels. Received: with_labels=False")
        return tf.convert_to_tensor(self._labels)

    def push(self, rows: tf.Tensor, labels: tf.Tensor | None = None) -> None:
        """Writes a global batch over the oldest rows; nothing at all if it is not finite.

        Args:
            rows: [rows, dim] of all replicas, the same on every replica; static shape.
            labels: int64 [rows], if the queue keeps labels.

        Raises:
            ValueError: more rows than the queue holds, another length, an unknown shape, or labels
                where there should be none and the reverse.
        """
        count = self._check(rows, labels)
        rows = tf.cast(rows, self._rows.dtype)
        finite = tf.reduce_all(tf.math.is_finite(rows))
        cursor, pushes = tf.convert_to_tensor(self._cursor), tf.convert_to_tensor(self._pushes)
        places = (cursor + tf.range(count, dtype=tf.int64)) % self.size
        step = tf.cast(finite, tf.int64)
        _write(self._rows, places, rows, finite)
        if self._labels is not None:
            _write(self._labels, places, tf.cast(labels, tf.int64), finite)
        _write(self._pushed_at, places, tf.fill([count], pushes + 1), finite)
        self._cursor.assign((cursor + step * count) % self.size)
        self._pushes.assign(pushes + step)

    def _check(self, rows: tf.Tensor, labels: tf.Tensor | None) -> int:
        shape = tuple(rows.shape)
        if len(shape) != 2 or shape[0] is None or shape[1] != self.dim:
            raise ValueError(f"rows must be [rows, {self.dim}], both known. Received: {shape}")
        if shape[0] > self.size:
            raise ValueError(
                f"the queue's size must not be smaller than the global batch. Received: size "
                f"{self.size} and {shape[0]} rows"
            )
        if (labels is None) != (self._labels is None):
            raise ValueError(
                "labels go with a queue that keeps labels. Received: with_labels="
                f"{self._labels is not None} and {'no ' if labels is None else ''}labels"
            )
        if labels is not None and tuple(labels.shape) != shape[:1]:
            raise ValueError(
                f"labels must be [{shape[0]}], one a row. Received: {tuple(labels.shape)}"
            )
        return shape[0]

    def age(self) -> tf.Tensor:
        """How many pushes ago the rows were written, on average; a float32 scalar.

        The newest rows have age 0, first rows count from the first push on. A full queue's age
        settles at about ``(size / batch - 1) / 2``.
        """
        pushes = tf.convert_to_tensor(self._pushes)
        total = pushes * self.size - tf.reduce_sum(tf.convert_to_tensor(self._pushed_at))
        return tf.cast(total, tf.float32) / self.size

    def is_full(self) -> tf.Tensor:
        """Whether every row has been pushed, a bool scalar (SwAV uses its queue from then on)."""
        return tf.reduce_all(tf.convert_to_tensor(self._pushed_at) > 0)


def _write(
    variable: keras.Variable, places: tf.Tensor, values: tf.Tensor, wanted: tf.Tensor
) -> None:
    """Writes rows in place if wanted; without a condition, which replicas could not share."""
    old = tf.gather(tf.convert_to_tensor(variable), places)
    variable.value.scatter_update(tf.IndexedSlices(tf.where(wanted, values, old), places))
