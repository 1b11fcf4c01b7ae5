"""What methods with a slow copy share: its options, its construction and how it follows.

The official codes differ in where the average stands within a step: MoCo and MoCo v3 before the
slow copy's forward pass, BYOL and DINO after the optimizer's update. Between two forward passes of
the copy both average it once with the same weights, so the copy runs with the same numbers; here it
always follows after the update. What differs is the step that the cosine is taken at, which is the
``offset`` below.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcontrast import models
from tfcontrast.config import MethodConfig, option
from tfcontrast.methods import shared_options
from tfcontrast.methods.plan import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class MomentumConfig(MethodConfig):
    """Options of the methods with a slow copy of their networks."""

    ema_decay: float = shared_options.ema_decay(0.996)
    ema_schedule: str = shared_options.ema_schedule("cosine")
    ema_statistics: str = option(
        "own",
        "The slow copy's moving batch-norm statistics: of its own batches, averaged like the "
        "weights, or copied.",
        choices=("own", "average", "copy"),
    )


def clone(network: keras.Layer, name: str) -> Any:
    """A network of the same architecture under another name; ``SlowCopies`` gives it weights."""
    copy = type(network).from_config({**network.get_config()})
    copy.name = name
    return copy


class SlowCopies:
    """Networks and the copies that follow them (He et al., MoCo, 2019, equation 2).

    Args:
        pairs: (network, its clone).
        config: decay, schedule and what happens to statistics.
        plan: the cosine needs ``total_steps``.
        offset: added to the number of steps before this one to give the cosine's step.

    Raises:
        ValueError: the cosine without ``total_steps``.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[keras.Layer, keras.Layer]],
        config: MomentumConfig,
        plan: Plan,
        *,
        offset: int = 0,
    ) -> None:
        if config.ema_schedule == "cosine":
            plan.need("total_steps", why="ema_schedule='cosine'")
        self._pairs, self._config = tuple(pairs), config
        self._total_steps, self._offset = plan.total_steps, offset

    @property
    def layers(self) -> tuple[keras.Layer, ...]:
        """The copies."""
        return tuple(copy for _, copy in self._pairs)

    def start(self) -> None:
        """Makes the copies equal, once all networks are built."""
        for network, copy in self._pairs:
            models.copy_weights(network, copy)

    def decay(self, step: tf.Tensor) -> tf.Tensor:
        """What the copies keep after the step that has this many before it, float32 scalar."""
        config = self._config
        if config.ema_schedule == "constant":
            return tf.constant(config.ema_decay)
        return models.cosine_ema_decay(config.ema_decay, step + self._offset, self._total_steps)

    def follow(self, outputs: Mapping[str, tf.Tensor]) -> None:
        """Moves the copies after an update; they stay when the step was not taken.

        Args:
            outputs: ``step`` and ``taken``, as ``after_update`` gets them.
        """
        decay = tf.where(outputs["taken"], self.decay(outputs["step"]), 1.0)
        for network, copy in self._pairs:
            models.update_ema(network, copy, decay, statistics=self._config.ema_statistics)
