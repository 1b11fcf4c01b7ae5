"""Callbacks that save: checkpoints in their turn, and the one of a run that is asked to stop."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints, interruption, state


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
            if not self._folder.parent.is_dir():  # such as a lost mount: not made anew under it
                raise OSError(
                    f"the checkpoint of step {self._step} could not be written to {self._folder}: "
                    "the run's folder is away"
                )
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
    """Saves and leaves ``fit`` after a step when a stop is asked for; comes after the others.

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

    def break_off_begin(self) -> None:
        """Stops while a method begins an epoch; a resumed run begins it again.

        Every worker must call it equally often.

        Raises:
            Interrupted: the state is saved, as it was before the epoch.
        """
        if distribute.any_worker(self.model.distribute_strategy, bool(interruption.asked())):
            self._stop({})

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
