"""Callbacks that measure: rates and the kNN monitor."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast import evaluate


class Rates(keras.callbacks.Callback):
    """Adds ``examples_per_second``, ``input_wait_share`` and ``learning_rate`` to an epoch's logs.

    ``input_wait_share`` is the share of the time in which the loop waited for its next batch (see
    `InputWait`): near 0 the network sets the speed, towards 1 the input does. The first step is
    left out, since it holds the tracing of the graph, and so is what other callbacks do between
    epochs.

    Args:
        batch_size: images of a step.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self._batch_size = batch_size
        self._traced = False
        self._start, self._steps, self._waited = 0.0, 0, 0.0
        self._images, self._seconds = 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock."""
        self._start, self._steps = time.perf_counter(), 0
        self._waited = self.model.input_wait.seconds

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts."""
        if self._traced:
            self._steps += self.model.steps_per_execution
        else:
            self._waited = self.model.input_wait.seconds
            self._traced, self._start = True, time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the epoch's numbers."""
        images, seconds = self._steps * self._batch_size, time.perf_counter() - self._start
        if images:
            self._images, self._seconds = self._images + images, self._seconds + seconds
        if logs is not None:
            if images:
                logs["examples_per_second"] = images / seconds
                waited = self.model.input_wait.seconds - self._waited
                logs["input_wait_share"] = min(1.0, waited / seconds)
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
        between_batches: called with the epoch's logs before every batch of a measurement; may raise
            what breaks it off.
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
        between_batches: Callable[[Mapping[str, Any]], None] = lambda logs: None,
    ) -> None:
        super().__init__()
        self._between_batches = between_batches
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
            evaluate.extract_features(self._embed, self._batches(d, logs)) for d in self._sets
        )
        scores = evaluate.knn_accuracy(
            bank, labels, queries, truth, num_classes=self._classes, **self._vote
        )
        logs["monitor_knn_top1"] = scores["knn_top1"]

    def _batches(self, dataset: tf.data.Dataset, logs: Mapping[str, Any]) -> Iterator[Any]:
        for batch in dataset:
            self._between_batches(logs)
            yield batch


def _thin(source: data_lib.Source, most: int) -> data_lib.Source:
    if source.num_examples <= most:
        return source
    return source.subset(np.linspace(0, source.num_examples - 1, most).astype(np.int64))
