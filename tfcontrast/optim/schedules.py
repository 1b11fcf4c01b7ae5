"""Learning rates: scaling with the batch size, warm-up, and the decays of the papers."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

SCALING_RULES = ("linear", "sqrt", "none")
DECAYS = ("cosine", "step", "exponential", "constant")


def scaled_learning_rate(base: float, batch_size: int, rule: str = "linear") -> float:
    """Scales a paper's base learning rate to a batch size.

    Args:
        base: the base rate.
        batch_size: images (not views) of a global batch.
        rule: ``linear`` (``base * B / 256``), ``sqrt`` (``base * sqrt(B)``; SimCLR, appendix B.1)
            or ``none``.

    Returns:
        The peak learning rate.

    Raises:
        ValueError: an unknown rule or a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1. Received: {batch_size}")
    if rule == "linear":
        return base * batch_size / 256
    if rule == "sqrt":
        return base * math.sqrt(batch_size)
    if rule == "none":
        return base
    raise ValueError(f"rule must be one of {', '.join(SCALING_RULES)}. Received: {rule!r}")


@keras.saving.register_keras_serializable(package="tfcontrast")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then a decay; a function of the step alone.

    ``start`` at step 0, exactly ``peak`` at ``warmup_steps``, exactly the end value at
    ``total_steps`` and ever after. After the warm-up the rate is

    - ``cosine``: ``peak (c + f (1 - c))`` with ``c = (1 + cos(pi p)) / 2``, ``p`` the part done,
      ``f`` ``final_fraction``;
    - ``step``: ``peak * decay_rate`` to the power of the number of ``decay_steps`` at or before
      the step;
    - ``exponential``: ``peak * decay_rate ** ((step - warmup_steps) / decay_steps)``;
    - ``constant``: ``peak``.

    Args:
        peak: rate at the end of the warm-up.
        total_steps: steps of the whole run, warm-up included.
        warmup_steps: steps of the warm-up; 0 starts at the peak.
        warmup_start: rate at step 0 when there is a warm-up.
        decay: one of ``DECAYS``.
        final_fraction: end value of ``cosine``, as a fraction of the peak.
        decay_rate: of ``step`` and ``exponential``: the factor of each decay.
        decay_steps: of ``step``: when to decay, rising, counted from the start of the run; of
            ``exponential``: one number, the steps that a decay takes.
        hold_steps: the decay moves every so many steps only (an epoch's steps: MoCo, SimSiam; the
            staircase of ``exponential``). The last hold ends at ``total_steps``.
        decay_from_start: ``cosine`` counts from step 0 instead of the end of the warm-up, which
            then ends on the cosine (SupContrast), not on the peak.
        name: name of the ops.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        peak: float,
        *,
        total_steps: int,
        warmup_steps: int = 0,
        warmup_start: float = 0.0,
        decay: str = "cosine",
        final_fraction: float = 0.0,
        decay_rate: float = 0.1,
        decay_steps: Sequence[int] = (),
        hold_steps: int = 1,
        decay_from_start: bool = False,
        name: str = "warmup_schedule",
    ) -> None:
        if decay not in DECAYS:
            raise ValueError(f"decay must be one of {', '.join(DECAYS)}. Received: {decay!r}")
        if not 0 <= warmup_steps <= total_steps:
            raise ValueError(
                "warmup_steps must be between 0 and total_steps. Received: "
                f"warmup_steps={warmup_steps}, total_steps={total_steps}"
            )
        if min(total_steps, hold_steps, *decay_steps) < 1:
            raise ValueError(
                "total_steps, hold_steps and decay_steps must be at least 1. Received: "
                f"{total_steps}, {hold_steps}, {list(decay_steps)}"
            )
        if any(a >= b for a, b in itertools.pairwise(decay_steps)):
            raise ValueError(f"decay_steps must rise. Received: {list(decay_steps)}")
        if decay == "exponential" and len(decay_steps) != 1:
            raise ValueError(
                f"decay_steps of exponential is one number. Received: {list(decay_steps)}"
            )
        if decay_from_start and decay != "cosine":
            raise ValueError(f"decay_from_start is an option of cosine. Received: {decay!r}")
        super().__init__()
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.warmup_start = warmup_start
        self.decay = decay
        self.final_fraction = final_fraction
        self.decay_rate = decay_rate
        self.decay_steps = tuple(decay_steps)
        self.hold_steps = hold_steps
        self.decay_from_start = decay_from_start
        self.name = name

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The learning rate of a step, a float32 scalar (steps are exact up to 2^24)."""
        step = tf.minimum(tf.cast(step, tf.float32), float(self.total_steps))
        decayed = self._decayed(step)
        if not self.warmup_steps:
            return decayed
        top = self._decayed(tf.constant(float(self.warmup_steps)))
        done = step / float(self.warmup_steps)
        warming = self.warmup_start + (top - self.warmup_start) * done
        return tf.where(step < float(self.warmup_steps), warming, decayed)

    def _decayed(self, step: tf.Tensor) -> tf.Tensor:
        """The decay's value at a step of at most ``total_steps``."""
        held = tf.floor(step / self.hold_steps) * self.hold_steps
        step = tf.where(step < float(self.total_steps), held, step)
        peak = tf.constant(self.peak, tf.float32)
        first = 0 if self.decay_from_start else self.warmup_steps
        after = tf.maximum(step - first, 0.0)
        if self.decay == "cosine":
            part = after / max(self.total_steps - first, 1)
            cosine = 0.5 * (1.0 + tf.cos(math.pi * part))
            return peak * (cosine + self.final_fraction * (1.0 - cosine))
        if self.decay == "step":
            passed = tf.reduce_sum(
                tf.cast(step >= tf.constant(self.decay_steps, tf.float32), tf.float32)
            )
            return peak * tf.pow(self.decay_rate, passed)
        if self.decay == "exponential":
            return peak * tf.pow(self.decay_rate, after / self.decay_steps[0])
        return peak

    def get_config(self) -> dict[str, Any]:
        """Returns every option."""
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "warmup_start": self.warmup_start,
            "decay": self.decay,
            "final_fraction": self.final_fraction,
            "decay_rate": self.decay_rate,
            "decay_steps": list(self.decay_steps),
            "hold_steps": self.hold_steps,
            "decay_from_start": self.decay_from_start,
            "name": self.name,
        }


def make_schedule(
    base: float, *, batch_size: int, scaling: str = "linear", total_steps: int, **options: Any
) -> WarmupSchedule:
    """Makes the schedule of a run from the numbers that papers give.

    Args:
        base: base learning rate.
        batch_size: images of a global batch.
        scaling: see `scaled_learning_rate`.
        total_steps: steps of the run.
        **options: see `WarmupSchedule`.

    Returns:
        A schedule with the scaled rate as its peak.
    """
    peak = scaled_learning_rate(base, batch_size, scaling)
    return WarmupSchedule(peak, total_steps=total_steps, **options)
