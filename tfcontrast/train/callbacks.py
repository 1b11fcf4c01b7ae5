"""The callbacks of a run: rates, the kNN monitor, checkpoints and the end on request."""

import logging
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast import distribute, evaluate
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints, interruption, state


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


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint every so many steps and at the end; only ``Stopper`` comes after it.

    At the end of an epoch it waits for the other callbacks and keeps the epoch's numbers too, so
    that nothing of that epoch is missing after a resume. A disk that is full does not end the
    training: the user is told, the checkpoints that are there stay, and the next one is tried in
    its turn.

    Args:
        folder: the run's ``checkpoints`` folder.
        config: the run's options, for the manifest.
        every: steps between checkpoints.
        keep: how many stay.
        keep_every: those of its multiples are written and stay for good; 0: none.
        last_step: the run's last step, which is always saved.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        config: Mapping[str, Any],
        *,
        every: int,
        keep: int,
        keep_every: int = 0,
        last_step: int,
    ) -> None:
        super().__init__()
        self._folder, self._config = folder, config
        self._every, self._last = every, last_step
        self._keep, self._keep_every = keep, keep_every
        self._step, self._saved = 0, -1
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
            self._save(logs or {})

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

    def save_now(self, logs: Mapping[str, Any], *, end_due: bool = False) -> bool:
        """Saves out of turn, for a run that stops, unless this step has just been saved.

        Args:
            logs: the epoch's numbers; empty within an epoch.
            end_due: see ``write_checkpoint``.

        Returns:
            Whether the state is on the disk.
        """
        if self._saved != self._step:
            self._save(logs, end_due=end_due, goes_on=False)
        return self._saved == self._step

    def _is_due(self) -> bool:
        periods = [self._every, self._keep_every] if self._keep_every else [self._every]
        return self._step == self._last or any(self._step % period == 0 for period in periods)

    def _save(
        self, logs: Mapping[str, Any], *, end_due: bool = False, goes_on: bool = True
    ) -> None:
        try:
            with interruption.saving():
                checkpoint = checkpoints.write_checkpoint(
                    self._folder,
                    state.values(state.full_state(self.model)),
                    step=self._step,
                    config=self._config,
                    logs={name: float(value) for name, value in logs.items()},
                    end_due=end_due,
                )
        except OSError as error:
            self._failed = True
            goes_on = goes_on and self._step != self._last
            logging.getLogger(__name__).error(
                "%s; %solder checkpoints are untouched",
                error,
                "training goes on, " if goes_on else "",
            )
        else:
            self._failed, self._saved = False, self._step
            interruption.resumes_from(checkpoint.name)
            checkpoints.prune_checkpoints(self._folder, self._keep, every=self._keep_every)


class Stopper(keras.callbacks.Callback):
    """Saves and leaves ``fit`` after a step when a stop is asked for; must be the last callback.

    Several workers agree on it after every step, so that all of them stop after the same one.

    Args:
        saver: what writes the checkpoints; None on a worker that writes none.
        last_step: the run's last step, for the message.
    """

    def __init__(self, saver: Checkpoints | None, *, last_step: int) -> None:
        super().__init__()
        self._saver, self._last = saver, last_step
        self._step = 0
        self._agreed = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Reads the step once; afterwards it is counted."""
        self._step = int(tf.convert_to_tensor(self.model.optimizer.iterations))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Asks every worker, and stops within an epoch."""
        self._step += self.model.steps_per_execution
        strategy = self.model.distribute_strategy
        self._agreed = distribute.any_worker(strategy, bool(interruption.asked()))
        if self._agreed and batch + 1 != self.params["steps"]:
            self._stop({})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops at an epoch's end."""
        if self._stops():
            self._stop(logs or {})

    def break_off(self, logs: Mapping[str, Any]) -> None:
        """Stops within an epoch's end when a stop is asked for; a resumed run begins with that end.

        Raises:
            Interrupted: the state is saved.
        """
        if self._stops():
            self._stop(logs, end_due=True)

    def _stops(self) -> bool:
        # Each of several workers runs the monitor at its own pace. One that left it on a signal of
        # its own would let the others wait in the next step for good; so only what all have agreed
        # on at the last step counts, and the signal is noticed after the next one.
        if distribute.num_workers(self.model.distribute_strategy) > 1:
            return self._agreed
        return bool(interruption.asked())

    def _stop(self, logs: Mapping[str, Any], *, end_due: bool = False) -> None:
        """Saves and raises.

        Raises:
            Interrupted: always.
        """
        saved = self._saver is None or self._saver.save_now(logs, end_due=end_due)
        with interruption.saving():  # the others stay until the chief has saved
            distribute.any_worker(self.model.distribute_strategy, False)
        where = "there" if saved else "the checkpoint before"
        raise interruption.Interrupted(
            f"stopped by {interruption.asked() or 'another worker'} after step {self._step} of "
            f"{self._last}{', saved' if saved else ''}; the same command goes on from {where}"
        )
