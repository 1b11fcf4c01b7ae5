"""Running means of a step's values, the same on every replica."""

from typing import Any

import keras
import tensorflow as tf


class SharedMean(keras.metrics.Mean):
    """A running mean of a value that is the same on every replica.

    Keras's own adds the replicas' shares up when it is read and deals the sum out evenly when it is
    restored, so that a resumed run would not hold the very same numbers on every replica.
    """

    def add_variable(self, *args: Any, **options: Any) -> keras.Variable:
        """As Keras's, but reading takes one replica's value and assigning sets every replica's."""
        return super().add_variable(*args, **{**options, "aggregation": "only_first_replica"})

    def update_state(self, value: tf.Tensor) -> None:
        """Takes a scalar in, unless it is not finite: the mean would never be a number again."""
        value = tf.cast(value, self.dtype)
        finite = tf.math.is_finite(value)
        # The weight 0 alone would not do: 0 x NaN is NaN.
        super().update_state(
            tf.where(finite, value, tf.zeros_like(value)), tf.cast(finite, self.dtype)
        )

    def result(self) -> tf.Tensor:
        """The mean of the finite values; NaN without any, since 0 would look like a loss."""
        count = tf.convert_to_tensor(self.count)
        return tf.where(count > 0, super().result(), tf.constant(float("nan"), count.dtype))
