"""Steps whose gradient is not finite are skipped, on all replicas alike.

One NaN in one image, or a loss that overflows once, would otherwise end a training of weeks: NaN
never leaves weights and moments again.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf


class SkippingOptimizer(keras.optimizers.Optimizer):
    """Leaves weights and slots as they are when the summed gradient's norm is not finite.

    The verdict is taken after the sum over the replicas: a NaN or an infinity of one replica is
    then in everybody's sum, so that all agree without asking each other. It is taken from the norm
    of all gradients together: a gradient so large that its square overflows would turn the second
    moments of Adam infinite for good, and is refused with the others.

    A skipped step counts as a step all the same: ``iterations`` moves on, and with it the schedule
    and the data. ``bad_steps`` counts the skipped ones, ``bad_steps_in_a_row`` those since the last
    step that was taken. ``last_rollback`` is for whoever answers to many of them: the step at which
    an older state was put back. The three are among the optimizer's variables, and equal on all
    replicas.

    Subclasses write only through ``assign``, ``assign_add`` and ``assign_sub``.
    """

    bad_steps: keras.Variable
    bad_steps_in_a_row: keras.Variable
    last_rollback: keras.Variable

    _takes: tf.Tensor | None = None  # whether the step under way is taken; None outside of one

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the counters, before the slots."""
        self.bad_steps, self.bad_steps_in_a_row, self.last_rollback = (
            self.add_variable((), dtype="int64", name=name)
            for name in ("bad_steps", "bad_steps_in_a_row", "last_rollback")
        )
        super().build(variables)

    def clipped(self, gradients: list[tf.Tensor], norm: tf.Tensor) -> list[tf.Tensor]:
        """The summed gradients as they are used, given the norm of all of them together."""
        del norm
        return gradients

    @contextlib.contextmanager
    def taken_if(self, condition: tf.Tensor) -> Iterator[None]:
        """Inside, what is written counts only where the [] bool condition holds as well."""
        outer = self._takes
        self._takes = condition if outer is None else outer & condition
        try:
            yield
        finally:
            self._takes = outer

    def assign(self, variable: Any, value: tf.Tensor) -> None:
        """Sets a weight or a slot to ``value``, unless the step is skipped."""
        if self._takes is not None:
            old = tf.convert_to_tensor(variable)
            # With a scalar condition this op hands one of its inputs on; tf.where would copy.
            value = tf.raw_ops.Select(condition=self._takes, x=tf.cast(value, old.dtype), y=old)
        super().assign(variable, value)

    def assign_add(self, variable: Any, value: tf.Tensor) -> None:
        """Adds to a weight or a slot, unless the step is skipped."""
        old = tf.convert_to_tensor(variable)
        self.assign(variable, old + tf.cast(value, old.dtype))

    def assign_sub(self, variable: Any, value: tf.Tensor) -> None:
        """Subtracts from a weight or a slot, unless the step is skipped."""
        old = tf.convert_to_tensor(variable)
        self.assign(variable, old - tf.cast(value, old.dtype))

    def _backend_update_step(
        self, grads: Sequence[tf.Tensor], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        """Keras's sum and update of every variable, and the verdict and the clipping between."""
        variables = [v.value if isinstance(v, keras.Variable) else v for v in trainable_variables]
        summed = self._all_reduce_sum_gradients(list(zip(grads, variables, strict=True)))
        gradients = [gradient for gradient, _ in summed]
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(norm)
        bad = tf.cast(tf.logical_not(finite), tf.int64)
        self.bad_steps.assign_add(bad)
        self.bad_steps_in_a_row.assign(bad * (self.bad_steps_in_a_row + 1))
        tf.__internal__.distribute.interim.maybe_merge_call(
            self._update_every,
            self._distribution_strategy,
            list(zip(self.clipped(gradients, norm), variables, strict=True)),
            learning_rate,
            finite,
        )

    def _update_every(
        self,
        strategy: tf.distribute.Strategy,
        grads_and_vars: Sequence[tuple[Any, Any]],
        learning_rate: Any,
        finite: Any,
    ) -> None:
        """Updates every variable on each replica; ``update`` hands out the replica's own values."""

        def update(
            variable: tf.Variable, gradient: tf.Tensor, learning_rate: tf.Tensor, finite: tf.Tensor
        ) -> None:
            with self.taken_if(finite):
                self.update_step(gradient, variable, learning_rate)

        for gradient, variable in grads_and_vars:
            strategy.extended.update(
                variable, update, args=(gradient, learning_rate, finite), group=False
            )
