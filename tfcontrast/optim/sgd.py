"""Stochastic gradient descent as torch and the papers write it."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcontrast.optim.base import Schedule, SummedOptimizer


@keras.saving.register_keras_serializable(package="tfcontrast")
class SGD(SummedOptimizer):
    """SGD with coupled L2 decay and the learning rate outside the velocity.

        g <- g + decay w;  v <- momentum v + g;  w <- w - lr v

    (Nesterov: ``w <- w - lr (g + momentum v)``). This is ``torch.optim.SGD``. Keras's own SGD keeps
    the rate inside the velocity (``v <- momentum v - lr g``), which differs whenever the rate
    changes, and its decay is decoupled.

    Args:
        learning_rate: a number or a schedule.
        momentum: of the velocity; 0 keeps no slot.
        nesterov: look-ahead form.
        **options: see `SummedOptimizer`.

    Raises:
        ValueError: momentum outside [0, 1), or Nesterov without momentum.
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        **options: Any,
    ) -> None:
        check_momentum(momentum, nesterov)
        super().__init__(learning_rate, **options)
        self.momentum = momentum
        self.nesterov = nesterov

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates one velocity for each variable; see `SummedOptimizer.build`."""
        if self.built:
            return
        super().build(variables)
        self._velocities = (
            self.add_optimizer_variables(variables, "velocity") if self.momentum else []
        )

    def descend(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable and its velocity."""
        direction = self.with_velocity(self.with_decay(gradient, variable), variable)
        self.assign_sub(variable, learning_rate * direction)

    def with_velocity(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        """Moves the velocity by ``gradient`` and returns the direction of descent."""
        if not self.momentum:
            return gradient
        velocity = self._velocities[self._get_variable_index(variable)]
        own = self.group(variable).momentum
        momentum = self.momentum if own is None else own
        moved = momentum * tf.convert_to_tensor(velocity) + gradient
        self.assign(velocity, moved)
        return gradient + momentum * moved if self.nesterov else moved

    def get_config(self) -> dict[str, Any]:
        """Returns every option."""
        return super().get_config() | {"momentum": self.momentum, "nesterov": self.nesterov}


def check_momentum(momentum: float, nesterov: bool) -> None:
    """Raises ``ValueError`` for a momentum outside [0, 1) and for Nesterov without momentum."""
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1). Received: {momentum}")
    if nesterov and not momentum:
        raise ValueError(f"nesterov needs a momentum. Received: momentum={momentum}")
