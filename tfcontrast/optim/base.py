"""The part that every optimizer here shares: sum over replicas, clip, exclude by role, then step.

Keras 3 clips each replica's own gradient and sums afterwards, so that a clipped run depends on how
many replicas hold the batch, and it decides exclusions by variable names. Both are replaced here,
for Keras's own update rules too.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import tensorflow as tf

from tfcontrast.optim.groups import EVERYTHING, Group, group_by_variable
from tfcontrast.optim.skipping import SkippingOptimizer

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule

_VECTORS = frozenset({"bias", "norm"})
_REPLACED = (
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "gradient_accumulation_steps",
    "loss_scale_factor",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
)


class SummedOptimizer(SkippingOptimizer):
    """An optimizer whose step depends on the global batch only, not on how many replicas hold it.

    The order is: sum the gradients over the replicas, skip the step if they are not finite (see
    `SkippingOptimizer`), clip, decay, update. Losses are divided by the number of replicas before;
    slots and weights stay equal on all replicas. Create and ``build`` it in the strategy's scope.

    Subclasses implement `descend`. Keras's ``weight_decay`` attribute stays None (its decoupled
    decay would be added to ours); the value is in ``decay``.

    Args:
        learning_rate: a number or a schedule of the step.
        weight_decay: a number, or a schedule of the step (DINO raises it during training).
        exclude_from_decay: roles (see `variable_roles`) of the variables that are not decayed.
        exclude_from_adaptation: roles of the variables that layer-wise rules (LARS, LAMB) do not
            rescale.
        freeze_steps: role -> number of first steps in which its variables, and their slots, stand
            still (the prototypes of SwAV, the last layer of DINO).
        clip_norm: bound of the norm of all gradients together.
        clip_tensor_norm: bound of the norm of each variable's gradient.
        **options: passed on to the Keras class: ``name`` and the hyper-parameters of its rule.

    Raises:
        ValueError: both clippings, a bound that is not positive, roles given as one string, or one
            of Keras's options that this class replaces.
    """

    def __init__(
        self,
        learning_rate: float | Schedule,
        *,
        weight_decay: float | Schedule = 0.0,
        exclude_from_decay: Sequence[str] = (),
        exclude_from_adaptation: Sequence[str] = (),
        freeze_steps: Mapping[str, int] | None = None,
        clip_norm: float | None = None,
        clip_tensor_norm: float | None = None,
        **options: Any,
    ) -> None:
        if not _is_schedule(weight_decay) and weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative. Received: {weight_decay}")
        if clip_norm is not None and clip_tensor_norm is not None:
            raise ValueError(
                "Clip by the norm of all gradients or of each variable's, not both. Received: "
                f"clip_norm={clip_norm}, clip_tensor_norm={clip_tensor_norm}"
            )
        for bound in (clip_norm, clip_tensor_norm):
            if bound is not None and not bound > 0:
                raise ValueError(f"A gradient norm's bound must be positive. Received: {bound}")
        replaced = [option for option in _REPLACED if option in options]
        if replaced:
            raise ValueError(
                "Use clip_norm or clip_tensor_norm; Keras's own clipping, accumulation and "
                f"averaging are not exact on several replicas. Received: {', '.join(replaced)}"
            )
        rate = learning_rate if _is_schedule(learning_rate) else float(learning_rate)
        super().__init__(learning_rate=rate, **options)
        self.decay = weight_decay
        self.exclude_from_decay = _role_names("exclude_from_decay", exclude_from_decay)
        self.exclude_from_adaptation = _role_names(
            "exclude_from_adaptation", exclude_from_adaptation
        )
        self.freeze_steps = tuple((freeze_steps or {}).items())
        self.clip_norm = clip_norm
        self.clip_tensor_norm = clip_tensor_norm
        self._role_of: Callable[[int], str | None] | None = None
        self._group_of: Callable[[int, Group], Group] = {}.get  # type: ignore[assignment]

    def set_roles(self, roles: Mapping[int, str], groups: Sequence[Group] = ()) -> None:
        """Gives the roles that the exclusions refer to, and groups, before `build`.

        Without it a variable of rank 0 or 1 counts as "bias or norm", any other as "kernel".

        Args:
            roles: what `variable_roles` returns.
            groups: variables that are treated apart.

        Raises:
            ValueError: the optimizer is built already, or groups overlap or hold nothing.
        """
        if self.built:
            raise ValueError(
                f"Roles must be set before the optimizer is built. Received: {self.name}"
            )
        # A bound method: Keras and TensorFlow would wrap and track a dictionary attribute.
        self._role_of = dict(roles).get
        self._group_of = group_by_variable(groups, roles).get

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots, and settles for every variable what is done to it.

        Args:
            variables: the trainable variables; their order is the order of the slots.

        Raises:
            ValueError: a variable has no role, or an exclusion cannot be told from ranks.
        """
        if self.built:
            return
        self._undecayed = self._places(variables, self.exclude_from_decay)
        self._unadapted = self._places(variables, self.exclude_from_adaptation)
        frozen = [(self._places(variables, [role]), count) for role, count in self.freeze_steps]
        self._groups = tuple(self._group_of(id(variable), EVERYTHING) for variable in variables)
        self._first_steps = tuple(
            max([group.freeze_steps, *(count for places, count in frozen if index in places)])
            for index, group in enumerate(self._groups)
        )
        super().build(variables)

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Takes one variable's step, unless it is still frozen (called by Keras on every replica).

        Args:
            gradient: summed and clipped; the same on all replicas.
            variable: this replica's component of the variable.
            learning_rate: scalar.
        """
        dtype = variable.dtype
        gradient = tf.cast(tf.convert_to_tensor(gradient), dtype)
        learning_rate = tf.cast(self._rate_of(self.group(variable), learning_rate), dtype)
        first_step = self._first_steps[self._get_variable_index(variable)]
        if not first_step:
            self.descend(gradient, variable, learning_rate)
            return

        # Not a `tf.cond`: TensorFlow rewrites sums inside of one to a temporary variable that a
        # branch not taken makes and never destroys, and the next step fails.
        with self.taken_if(tf.convert_to_tensor(self.iterations) >= first_step):
            self.descend(gradient, variable, learning_rate)

    def group(self, variable: tf.Variable) -> Group:
        """The group of a variable; that of all others for one that is in none."""
        return self._groups[self._get_variable_index(variable)]

    def _rate_of(self, group: Group, learning_rate: tf.Tensor) -> Any:
        if group.constant_rate:
            schedule: Any = self._learning_rate
            learning_rate = getattr(schedule, "peak", learning_rate)
        return learning_rate if group.rate_scale == 1.0 else learning_rate * group.rate_scale

    @abstractmethod
    def descend(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates one variable and its slots; the arguments have the variable's dtype."""

    def decays(self, variable: tf.Variable) -> bool:
        """Whether weight decay applies to this variable."""
        return (_is_schedule(self.decay) or self.decay > 0) and self._get_variable_index(
            variable
        ) not in self._undecayed

    def adapts(self, variable: tf.Variable) -> bool:
        """Whether a layer-wise rule rescales this variable's step."""
        return self._get_variable_index(variable) not in self._unadapted

    def decay_rate(self, variable: tf.Variable) -> tf.Tensor:
        """The weight decay of this step for this variable, a scalar; 0 where it is excluded."""
        if not self.decays(variable):
            return tf.zeros([], variable.dtype)
        decay: Any = self.decay
        return tf.cast(decay(self.iterations) if _is_schedule(decay) else decay, variable.dtype)

    def with_decay(self, gradient: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        """The gradient of the loss with the L2 term ``decay / 2 |w|^2`` (coupled weight decay)."""
        if not self.decays(variable):
            return gradient
        return gradient + self.decay_rate(variable) * variable

    def get_config(self) -> dict[str, Any]:
        """Returns every option; `set_roles` must be called again on the copy."""
        config = super().get_config()
        for option in _REPLACED:
            config.pop(option, None)
        decay: Any = self.decay
        if _is_schedule(decay):
            decay = keras.saving.serialize_keras_object(decay)
        return config | {
            "weight_decay": decay,
            "exclude_from_decay": list(self.exclude_from_decay),
            "exclude_from_adaptation": list(self.exclude_from_adaptation),
            "freeze_steps": dict(self.freeze_steps),
            "clip_norm": self.clip_norm,
            "clip_tensor_norm": self.clip_tensor_norm,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "SummedOptimizer":
        """Makes the optimizer that `get_config` described, without slots and roles."""
        config = dict(config)
        if isinstance(config.get("weight_decay"), dict):
            config["weight_decay"] = keras.saving.deserialize_keras_object(
                config["weight_decay"], custom_objects=custom_objects
            )
        return super().from_config(config, custom_objects=custom_objects)

    def clipped(self, gradients: list[tf.Tensor], norm: tf.Tensor) -> list[tf.Tensor]:
        """Clips the summed gradients, what Keras does to each replica's own.

        Args:
            gradients: one a variable, summed over the replicas.
            norm: of all of them together.
        """
        if self.clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.clip_norm, use_norm=norm)
        if self.clip_tensor_norm is not None:
            gradients = [tf.clip_by_norm(g, self.clip_tensor_norm) for g in gradients]
        return gradients

    def _places(self, variables: Sequence[keras.Variable], roles: Sequence[str]) -> frozenset[int]:
        """Indices of the variables that have one of the roles."""
        if self._role_of is not None:
            found = [self._role_of(id(variable)) for variable in variables]
            unknown = [v.path for v, role in zip(variables, found, strict=True) if role is None]
            if unknown:
                raise ValueError(
                    f"Every variable needs a role. Received none for: {', '.join(unknown)}"
                )
            return frozenset(i for i, role in enumerate(found) if role in roles)
        wanted = set(roles)
        if wanted - _VECTORS - {"kernel"} or wanted & _VECTORS not in (set(), _VECTORS):
            raise ValueError(
                "Call set_roles(variable_roles(model)) before build: ranks only tell a kernel from "
                f"a bias or norm. Received: {sorted(wanted)}"
            )
        return frozenset(
            i
            for i, variable in enumerate(variables)
            if ("kernel" if len(variable.shape) > 1 else "bias") in wanted
        )


def _role_names(option: str, roles: Sequence[str]) -> tuple[str, ...]:
    if isinstance(roles, str):
        raise ValueError(f"{option} is a sequence of roles. Received: {roles!r}")
    return tuple(roles)


def _is_schedule(value: Any) -> bool:
    return isinstance(value, keras.optimizers.schedules.LearningRateSchedule)
