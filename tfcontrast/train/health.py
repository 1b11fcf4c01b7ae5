"""Warnings in words, when the numbers of an epoch are those of a training that goes wrong."""

import itertools
import logging
import math
from collections.abc import Mapping
from typing import Any

import keras

# Of 1 / sqrt(D), the spread of features all over the sphere; with random weights a ResNet has a
# third of it on photographs, a vision transformer a seventh (measured on CIFAR-10).
_COLLAPSED = 0.05
_STUCK = 0.01  # relative distance
_IN_A_ROW = 3


class Health(keras.callbacks.Callback):
    """Warns once of each: collapsed features, a loss that is stuck, a pretext task learned alone.

    Args:
        batch_size: images of a step, over all replicas.
        held_out: images that the kNN monitor classifies; 0: there is no monitor.
        warmup_epochs: epochs in which little need move; nothing is said about them.
    """

    def __init__(self, *, batch_size: int, held_out: int = 0, warmup_epochs: float = 0.0) -> None:
        super().__init__()
        self._batch_size, self._held_out = batch_size, held_out
        self._warmup_epochs = warmup_epochs
        self._stuck_epochs = 0
        self._measured: list[tuple[float, float]] = []
        self._told: set[str] = set()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the epoch's numbers, those of the callbacks before it too."""
        if logs is None or epoch + 1 <= self._warmup_epochs:
            return
        for kind, message in (
            ("collapsed", self._collapsed(logs)),
            ("stuck", self._stuck(logs)),
            ("shortcut", self._shortcut(logs)),
        ):
            if message and kind not in self._told:
                self._told.add(kind)
                logging.getLogger(__name__).warning("after epoch %d: %s", epoch + 1, message)

    def _collapsed(self, logs: Mapping[str, float]) -> str:
        ideal = 1 / math.sqrt(self.model.backbone.feature_dim)
        if not logs.get("feature_std", ideal) < _COLLAPSED * ideal:
            return ""
        return (
            f"feature_std is {logs['feature_std']:.2g}, where features all over the sphere have "
            f"{ideal:.2g}: the encoder gives every image nearly the same features (collapse). Try "
            "a lower --learning_rate, a longer --warmup_epochs or a larger --train_batch_size"
        )

    def _stuck(self, logs: Mapping[str, float]) -> str:
        value = self.model.stuck_loss(self._batch_size)
        if value is None or not abs(logs["loss"] - value) <= _STUCK * abs(value):
            self._stuck_epochs = 0
            return ""
        self._stuck_epochs += 1
        if self._stuck_epochs < _IN_A_ROW:
            return ""
        return (
            f"the loss is {logs['loss']:.4g} and has been near {value:.4g} for {_IN_A_ROW} epochs, "
            "which is its value when the encoder tells no image from another: it learns nothing. "
            "Try another --learning_rate (higher when it never moved, lower when it fell back), "
            "a longer --warmup_epochs, or weaker --augmentation"
        )

    def _shortcut(self, logs: Mapping[str, float]) -> str:
        if not {"contrastive_accuracy", "monitor_knn_top1"} <= logs.keys():
            return ""
        self._measured.append((logs["contrastive_accuracy"], logs["monitor_knn_top1"]))
        self._measured = self._measured[-_IN_A_ROW:]
        pretext, knn = zip(*self._measured, strict=True)
        if len(pretext) < _IN_A_ROW or not (_rises(pretext) and _rises(knn[::-1])):
            return ""
        # Less than two standard errors is the luck of the few images.
        error = math.sqrt(knn[0] * (1 - knn[0]) / max(self._held_out, 1))
        if knn[0] - knn[-1] < max(0.01, 2 * error):
            return ""
        return (
            f"contrastive_accuracy has risen ({_percents(pretext)}) while the kNN accuracy on "
            f"held-out images has fallen ({_percents(knn)}): the encoder solves the pretext task "
            "by what does not tell classes apart (a shortcut). Try stronger --augmentation (more "
            "--color_jitter_strength, --use_blur, a smaller --crop_area_min) or fewer "
            "--train_epochs"
        )


def _rises(values: tuple[float, ...]) -> bool:
    return all(a < b for a, b in itertools.pairwise(values))


def _percents(values: tuple[float, ...]) -> str:
    return ", ".join(f"{100 * value:.1f}" for value in values) + " %"
