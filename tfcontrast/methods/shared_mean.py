"""Running means of a step's values, the same on every replica."""

from typing import Any

import keras
import tensorflow as tf


class SharedMean(keras.metrics.Mean):
    """A running mean of a value that is the same on every replica.

    Keras's own adds the replicas' shares up when it is read and deals the sum out evenly when it is
    restored, so that a resumed run would not hold the very same numbers on every replica. It also
    takes four times the operations, and a step has a dozen of these means.
    """

    def add_variable(self, *args: Any, **options: Any) -> keras.Variable:
        """As Keras's, but reading takes one replica's value and assigning sets every replica's."""
        return super().add_variable(*args, **{**options, "aggregation": "only_first_replica"})

    def update_state(self, value: tf.Tensor) -> None:
        """Takes a scalar in, unless it is not finite: the mean would never be a number again."""
        values, counts = finite_values(tf.cast(value, self.dtype))
        self.add(values, counts)

    def add(self, total: tf.Tensor, count: tf.Tensor) -> None:
        """Takes in the sum and the number of some values, scalars of the metric's dtype."""
        self.total.value.assign_add(total)
        self.count.value.assign_add(count)

    def result(self) -> tf.Tensor:
        """The mean of the finite values; NaN without any (0 / 0): 0 would look like a loss."""
        return tf.convert_to_tensor(self.total) / tf.convert_to_tensor(self.count)


def finite_values(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """What `SharedMean.add` takes of single values: 0, counted 0 times, for one not finite."""
    finite = tf.math.is_finite(values)
    # The count 0 alone would not do: 0 x NaN is NaN.
    return tf.where(finite, values, 0.0), tf.cast(finite, values.dtype)
