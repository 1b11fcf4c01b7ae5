"""The callbacks of a run: rates, the kNN monitor and checkpoints."""

import logging
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast import evaluate
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints, state


class Rates(keras.callbacks.Callback):
    """Adds ``examples_per_second`` and ``learning_rate`` to an epoch's logs.

    The first step is left out, since it holds the tracing of the graph, and so is what other
    callbacks do between epochs.

    Args:
        batch_size: images of a step.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self._batch_size = batch_size
        self._traced = False
        self._start, self._steps = 0.0, 0
        self._images, self._seconds = 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._start, self._steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts."""
        if self._traced:
            self._steps += self.model.steps_per_execution
        else:
            self._traced, self._start = True, time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the epoch's numbers."""
        images, seconds = self._steps * self._batch_size, time.perf_counter() - self._start
        if images:
            self._images, self._seconds = self._images + images, self._seconds + seconds
        if logs is not None:
            if images:
                logs["examples_per_second"] = images / seconds
            logs["learning_rate"] = float(tf.convert_to_tensor(self.model.optimizer.learning_rate))

    @property
    def mean(self) -> float | None:
        """Images a second over the run so far; None before the second step."""
        return self._images / self._seconds if self._images else None


class KnnMonitor(keras.callbacks.Callback):
    """Adds the kNN accuracy on held-out training images to an epoch's logs.

    Args:
        bank: the images that vote; at most ``_BANK`` of them are used, evenly spaced.
        held_out: the images that are classified; never trained on.
        every: epochs between measurements; the last epoch is always measured.
        epochs: the run's epochs.
        image_size: side of the images in pixels.
        batch_size: images at once.
        k: neighbours.
        temperature: temperature of the votes.
    """

    _BANK = 10_000
    _QUERIES = 5_000

    def __init__(
        self,
        bank: data_lib.Source,
        held_out: data_lib.Source,
        *,
        every: int,
        epochs: int,
        image_size: int,
        batch_size: int,
        k: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self._every, self._epochs, self._classes = every, epochs, bank.num_classes
        self._vote: dict[str, Any] = {"k": k, "temperature": temperature}
        self._embed: Any = None  # traced once, not once a measurement
        self._sets = [
            data_lib.eval_dataset(_thin(source, most), image_size=image_size, batch_size=batch_size)
            for source, most in ((bank, self._BANK), (held_out, self._QUERIES))
        ]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Measures when it is time."""
        if logs is None or ((epoch + 1) % self._every and epoch + 1 < self._epochs):
            return
        if self._embed is None:
            self._embed = tf.function(self.model.embed)
        (bank, labels), (queries, truth) = (
            evaluate.extract_features(self._embed, d) for d in self._sets
        )
        scores = evaluate.knn_accuracy(
            bank, labels, queries, truth, num_classes=self._classes, **self._vote
        )
        logs["monitor_knn_top1"] = scores["knn_top1"]


def _thin(source: data_lib.Source, most: int) -> data_lib.Source:
    if source.num_examples <= most:
        return source
    return source.subset(np.linspace(0, source.num_examples - 1, most).astype(np.int64))


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint every so many steps and at the end; must be the last callback.

    At the end of an epoch it waits for the other callbacks and keeps the epoch's numbers too, so
    that nothing of that epoch is missing after a resume. A disk that is full does not end the
    training: the user is told, the checkpoints that are there stay, and the next one is tried in
    its turn.

    Args:
        folder: the run's ``checkpoints`` folder.
        config: the run's options, for the manifest.
        every: steps between checkpoints.
        keep: how many stay.
        last_step: the run's last step, which is always saved.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        config: Mapping[str, Any],
        *,
        every: int,
        keep: int,
        last_step: int,
    ) -> None:
        super().__init__()
        self._folder, self._config = folder, config
        self._every, self._keep, self._last = every, keep, last_step
        self._step = 0
        self._failed = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Reads the step once; afterwards it is counted, so that no step waits for the device."""
        self._step = int(tf.convert_to_tensor(self.model.optimizer.iterations))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves when it is time within an epoch."""
        self._step += self.model.steps_per_execution
        if self._is_due() and batch + 1 != self.params["steps"]:
            self._save({})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves when it is time at an epoch's end."""
        if self._is_due():
            self._save({name: float(value) for name, value in (logs or {}).items()})

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Tells of a run that ended without its last checkpoint.

        Raises:
            UserError: it could not be written.
        """
        if self._failed and self._step == self._last:
            raise UserError(
                f"the last checkpoint could not be written to {self._folder}; free the disk and "
                "run the same command again"
            )

    def _is_due(self) -> bool:
        return self._step % self._every == 0 or self._step == self._last

    def _save(self, logs: Mapping[str, float]) -> None:
        arrays = state.values(state.full_state(self.model))
        try:
            checkpoints.write_checkpoint(
                self._folder, arrays, step=self._step, config=self._config, logs=logs
            )
        except OSError as error:
            self._failed = True
            logging.getLogger(__name__).error(
                "%s; training goes on, older checkpoints are untouched", error
            )
        else:
            self._failed = False
            checkpoints.prune_checkpoints(self._folder, self._keep)
