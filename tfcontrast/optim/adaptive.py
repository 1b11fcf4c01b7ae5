"""RMSprop, Adam, AdamW and LAMB on summed gradients, with exclusions by role."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcontrast.optim.base import Schedule, SummedOptimizer


@keras.saving.register_keras_serializable(package="tfcontrast")
class RMSprop(SummedOptimizer, keras.optimizers.RMSprop):
    """Keras's RMSprop (``epsilon`` inside the root) with coupled L2 decay.

    Args:
        learning_rate: a number or a schedule.
        **options: see `SummedOptimizer`; ``rho``, ``momentum``, ``epsilon``, ``centered`` of
            Keras's class.
    """

    def descend(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable and its moments."""
        gradient = self.with_decay(gradient, variable)
        keras.optimizers.RMSprop.update_step(self, gradient, variable, learning_rate)


@keras.saving.register_keras_serializable(package="tfcontrast")
class Adam(SummedOptimizer, keras.optimizers.Adam):
    """Keras's Adam with coupled L2 decay.

    Args:
        learning_rate: a number or a schedule.
        **options: see `SummedOptimizer`; ``beta_1``, ``beta_2``, ``epsilon``, ``amsgrad`` of
            Keras's class.
    """

    def descend(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable and its moments."""
        gradient = self.with_decay(gradient, variable)
        keras.optimizers.Adam.update_step(self, gradient, variable, learning_rate)


@keras.saving.register_keras_serializable(package="tfcontrast")
class AdamW(SummedOptimizer, keras.optimizers.Adam):
    """Adam with decoupled decay, ``w <- w - lr d w`` before the step.

    Loshchilov and Hutter (2019), as torch writes it.

    Args:
        learning_rate: a number or a schedule.
        **options: see `SummedOptimizer`; ``beta_1``, ``beta_2``, ``epsilon``, ``amsgrad`` of
            Keras's class.
    """

    def descend(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable and its moments."""
        if self.decays(variable):
            self.assign_sub(variable, learning_rate * self.decay_rate(variable) * variable)
        keras.optimizers.Adam.update_step(self, gradient, variable, learning_rate)


@keras.saving.register_keras_serializable(package="tfcontrast")
class LAMB(SummedOptimizer):
    """LAMB (You et al., 2020, algorithm 2): AdamW's direction, rescaled layer by layer.

        u = m_hat / (sqrt(v_hat) + epsilon) + d w;   w <- w - lr (|w| / |u|) u

    The decay is decoupled from the moments but inside the ratio, as in the paper; Keras's Lamb
    decays outside of it. The ratio is 1 for excluded variables and where a norm is zero.

    Args:
        learning_rate: a number or a schedule.
        beta_1: decay of the first moment.
        beta_2: decay of the second moment.
        epsilon: keeps the division finite.
        exclude_from_decay: roles.
        exclude_from_adaptation: roles.
        **options: see `SummedOptimizer`.
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        exclude_from_decay: Sequence[str] = ("bias", "norm"),
        exclude_from_adaptation: Sequence[str] = ("bias", "norm"),
        **options: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            exclude_from_decay=exclude_from_decay,
            exclude_from_adaptation=exclude_from_adaptation,
            **options,
        )
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates two moments for each variable; see `SummedOptimizer.build`."""
        if self.built:
            return
        super().build(variables)
        self._moments, self._squares = self.add_optimizer_variables(variables, ["moment", "square"])

    def descend(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable and its moments."""
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        moment = self._moved(self._moments[index], gradient, self.beta_1)
        square = self._moved(self._squares[index], tf.square(gradient), self.beta_2)
        moment /= 1.0 - tf.pow(tf.cast(self.beta_1, variable.dtype), step)
        square /= 1.0 - tf.pow(tf.cast(self.beta_2, variable.dtype), step)
        direction = moment / (tf.sqrt(square) + self.epsilon)
        direction = self.with_decay(direction, variable)
        if self.adapts(variable):
            weight_norm, direction_norm = tf.norm(variable), tf.norm(direction)
            ratio = tf.math.divide_no_nan(weight_norm, direction_norm)
            both = tf.logical_and(weight_norm > 0, direction_norm > 0)
            direction *= tf.where(both, ratio, 1.0)
        self.assign_sub(variable, learning_rate * direction)

    def _moved(self, average: keras.Variable, value: tf.Tensor, beta: float) -> tf.Tensor:
        moved = beta * tf.convert_to_tensor(average) + (1.0 - beta) * value
        self.assign(average, moved)
        return moved

    def get_config(self) -> dict[str, Any]:
        """Returns every option."""
        return super().get_config() | {
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }
