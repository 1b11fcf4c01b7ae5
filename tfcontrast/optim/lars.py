"""LARS: four different algorithms that share the name, and a trust ratio of norms.

In all of them a layer's step is rescaled by ``r = trust |w| / |g|``. They differ in where the
learning rate and the decay stand, and in what they leave alone; numbers tuned for one do not carry
to another.

=======  ======================================================  =====  ==============
variant  used by                                                 trust  left alone
=======  ======================================================  =====  ==============
simclr   SimCLR, SupCon (You et al., 2017, "classic momentum")   0.001  biases, norms
byol     BYOL, MoCo v3, Barlow Twins, VICReg, DINO               0.001  biases, norms
larc     SwAV, DeepCluster-v2, SimSiam's probe (apex's LARC)     0.001  nothing
solo     solo-learn's CIFAR recipes                              0.02   biases, norms
=======  ======================================================  =====  ==============
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcontrast.optim.base import Schedule
from tfcontrast.optim.sgd import SGD

LARS_VARIANTS = ("simclr", "byol", "larc", "solo")

_TRUST = {"simclr": 0.001, "byol": 0.001, "larc": 0.001, "solo": 0.02}
_EXCLUDED: dict[str, tuple[str, ...]] = {
    "simclr": ("bias", "norm"),
    "byol": ("bias", "norm"),
    "larc": (),
    "solo": ("bias", "norm"),
}
_LARC_EPSILON = 1e-8


@keras.saving.register_keras_serializable(package="tfcontrast")
class LARS(SGD):
    """Layer-wise adaptive rate scaling.

    With ``g`` the gradient, ``w`` the weight and ``d`` the weight decay:

    - ``simclr``: ``g <- g + d w``; ``v <- momentum v + lr r g``; ``w <- w - v``. With
      ``classic_momentum=False`` ("popular"): ``v <- momentum v + g``; ``w <- w - lr r(v) v``, the
      ratio from the velocity's norm.
    - ``byol``: ``g <- r (g + d w)``, ratio after decay; then SGD, the rate outside the velocity.
    - ``larc``: ``r = trust |w| / (|g| + d |w| + 1e-8)``; ``g <- r (g + d w)``; then SGD.
    - ``solo``: as ``larc`` with ``r <- min(r / lr, 1)``.

    Where a norm is zero the ratio is 1; there ``larc`` and ``solo`` pass the gradient on without
    decay, as their sources do.

    Args:
        learning_rate: a number or a schedule.
        variant: one of ``LARS_VARIANTS``.
        momentum: of the velocity.
        nesterov: look-ahead form.
        classic_momentum: of ``simclr`` only, see above.
        trust_coefficient: None is the variant's own (0.001; ``solo`` 0.02).
        exclude_from_decay: roles; None is the variant's own.
        exclude_from_adaptation: roles; None is the variant's own.
        **options: see `SummedOptimizer`.

    Raises:
        ValueError: an unknown variant, a trust coefficient that is not positive,
            ``classic_momentum`` off where it has no meaning.
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        *,
        variant: str = "simclr",
        momentum: float = 0.9,
        nesterov: bool = False,
        classic_momentum: bool = True,
        trust_coefficient: float | None = None,
        exclude_from_decay: Sequence[str] | None = None,
        exclude_from_adaptation: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        if variant not in LARS_VARIANTS:
            raise ValueError(
                f"variant must be one of {', '.join(LARS_VARIANTS)}. Received: {variant!r}"
            )
        if variant != "simclr" and not classic_momentum:
            raise ValueError(
                f"classic_momentum is an option of the variant simclr. Received: {variant!r}"
            )
        if trust_coefficient is None:
            trust_coefficient = _TRUST[variant]
        if not trust_coefficient > 0:
            raise ValueError(f"trust_coefficient must be positive. Received: {trust_coefficient}")
        own = _EXCLUDED[variant]
        super().__init__(
            learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            exclude_from_decay=own if exclude_from_decay is None else exclude_from_decay,
            exclude_from_adaptation=(
                own if exclude_from_adaptation is None else exclude_from_adaptation
            ),
            **options,
        )
        self.variant = variant
        self.classic_momentum = classic_momentum
        self.trust_coefficient = trust_coefficient

    def descend(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable and its velocity."""
        if self.variant == "simclr":
            step = self._simclr_step(gradient, variable, learning_rate)
        elif self.variant == "byol":
            gradient = self.with_decay(gradient, variable)
            ratio = self._ratio(variable, gradient)
            step = learning_rate * self.with_velocity(ratio * gradient, variable)
        else:
            scaled = self._larc_gradient(gradient, variable, learning_rate)
            step = learning_rate * self.with_velocity(scaled, variable)
        self.assign_sub(variable, step)

    def _simclr_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> tf.Tensor:
        gradient = self.with_decay(gradient, variable)
        if self.classic_momentum:
            scaled = learning_rate * self._ratio(variable, gradient) * gradient
            return self.with_velocity(scaled, variable)
        direction = self.with_velocity(gradient, variable)
        return learning_rate * self._ratio(variable, direction) * direction

    def _larc_gradient(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> tf.Tensor:
        if not self.adapts(variable):
            return self.with_decay(gradient, variable)
        weight_norm, gradient_norm = tf.norm(variable), tf.norm(gradient)
        decay = self.decay_rate(variable)
        ratio = (
            self.trust_coefficient
            * weight_norm
            / (gradient_norm + decay * weight_norm + _LARC_EPSILON)
        )
        if self.variant == "solo":
            below = tf.math.divide_no_nan(ratio, learning_rate)
            ratio = tf.where(ratio < learning_rate, below, 1.0)
        both = tf.logical_and(weight_norm > 0, gradient_norm > 0)
        return tf.where(both, ratio * (gradient + decay * variable), gradient)

    def _ratio(self, variable: tf.Variable, direction: tf.Tensor) -> tf.Tensor:
        """``trust |w| / |direction|``; 1 for an excluded variable and where a norm is zero."""
        if not self.adapts(variable):
            return tf.ones([], variable.dtype)
        weight_norm, direction_norm = tf.norm(variable), tf.norm(direction)
        both = tf.logical_and(weight_norm > 0, direction_norm > 0)
        ratio = self.trust_coefficient * tf.math.divide_no_nan(weight_norm, direction_norm)
        return tf.where(both, ratio, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns every option, defaults resolved."""
        return super().get_config() | {
            "variant": self.variant,
            "classic_momentum": self.classic_momentum,
            "trust_coefficient": self.trust_coefficient,
        }
