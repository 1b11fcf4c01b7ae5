"""What a run does when its gradients are not finite any more: it says so, goes back, or ends."""

import logging
import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints, state
from tfcontrast.train.manifest import read_manifest

_ADVICE = (
    "lower --learning_rate, lengthen --warmup_epochs, set --clip_norm, use --precision=float32, or "
    "look at the images of these steps"
)


class BadSteps(keras.callbacks.Callback):
    """Tells of skipped steps; after too many in a row it goes back to an older checkpoint.

    The optimizer skips a step without a finite gradient, so that one bad batch costs one step. When
    many follow each other the fault is the weights', and these do not move any more. Then weights,
    slots and every other state come back from the newest whole checkpoint that is older than the
    weights that failed; the step stays, and with it schedule and data go on: the batches that did
    the harm do not come again. ``last_rollback``, a variable of the optimizer, remembers the step,
    so that a resumed run does the same.

    A run goes back to one state once: when it fails again, only a checkpoint that was written after
    the rollback counts. Without one the run ends.

    Every worker of several must have this callback: all read the same folder and do the same.

    Args:
        folder: the run's ``checkpoints`` folder.
        most: skipped steps in a row that are too many.
        chief: whether this worker tells.
    """

    def __init__(self, folder: pathlib.Path, *, most: int, chief: bool = True) -> None:
        super().__init__()
        self._folder, self._most, self._chief = folder, most, chief
        self._told = False
        self.rollbacks = 0
        """How often this session went back."""

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the optimizer's count.

        Raises:
            UserError: too many steps were skipped, and there is nothing to go back to.
        """
        optimizer = self.model.optimizer
        count = _number(optimizer.bad_steps_in_a_row)
        if not count:
            self._told = False
            return
        step = _number(optimizer.iterations)
        if not self._told:
            self._told = True
            self._tell(
                f"step {step - count + 1} was skipped: its gradient is not finite; weights and "
                "state stay as they were"
            )
        if count >= self._most:
            self._roll_back(step, step - count + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds ``skipped_steps``, those of the run so far, when there were any."""
        total = _number(self.model.optimizer.bad_steps)
        if total and logs is not None:
            logs["skipped_steps"] = float(total)

    def _roll_back(self, step: int, first: int) -> None:
        """Goes back from ``step``, the last of the bad steps that began with ``first``."""
        before = _number(self.model.optimizer.last_rollback)
        # What was written after step first - 1 holds the very weights that failed.
        found = self._read(after=before, before=first - 1)
        # Nobody goes on, and prunes or writes checkpoints, before all have read.
        nothing = distribute.any_worker(self.model.distribute_strategy, found is None)
        run = f"the steps {first} to {step} had no finite gradient"
        if found is None or nothing:
            why = (
                f"as before step {before}, after which an older state was put back, and there is "
                "no newer checkpoint"
                if before
                else "and there is no checkpoint from before to go back to"
            )
            raise UserError(f"{run}, {why}; {_ADVICE}")
        name, arrays = found
        self._restore(name, arrays, step)
        self._tell(
            f"{run}: weights and state go back to {name}; data and schedule go on after step {step}"
        )

    def _read(self, *, after: int, before: int) -> tuple[str, dict[str, np.ndarray]] | None:
        """The newest whole checkpoint of a step between, exclusively: its name and its arrays."""
        for checkpoint in reversed(checkpoints.list_checkpoints(self._folder)):
            if not after < int(checkpoint.name.removeprefix("step_")) < before:
                continue
            try:
                read_manifest(checkpoint)  # looks for damage, and for another step than the name's
                return checkpoint.name, checkpoints.read_arrays(checkpoint)
            except UserError as error:
                self._tell(f"{error}; an older one is used")
        return None

    def _restore(self, name: str, arrays: dict[str, np.ndarray], step: int) -> None:
        method = self.model
        optimizers = [o for o in (method.optimizer, method.probe_optimizer) if o is not None]
        kept = {id(v) for o in optimizers for v in (o.iterations, o.bad_steps)}
        wanted = {
            key: variable
            for key, variable in state.full_state(method).items()
            if id(variable) not in kept and not key.startswith("metrics/")
        }
        checkpoints.restore(wanted, arrays, source=str(self._folder / name))
        for optimizer in optimizers:
            optimizer.bad_steps_in_a_row.assign(0)
        method.optimizer.last_rollback.assign(step)
        self.rollbacks += 1

    def _tell(self, text: str) -> None:
        if self._chief:
            logging.getLogger(__name__).warning("%s", text)


def _number(variable: keras.Variable) -> int:
    return int(tf.convert_to_tensor(variable))
