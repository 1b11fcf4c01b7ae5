"""A window of steps for TensorBoard's profiler: where a step's time goes, on every device."""

import logging
import pathlib
from typing import Any

import keras
import tensorflow as tf

_LOG = logging.getLogger(__name__)

SETTLING = 10  # steps before the window: tracing and the first allocations are not what is asked


class Profile(keras.callbacks.Callback):
    """Records some steps of a session into the run's folder, once.

    ``tensorboard --logdir`` shows them with the plugin ``tensorboard-plugin-profile``.

    Args:
        folder: the run's folder; the record goes to ``plugins/profile`` in it.
        steps: how many are recorded, after the first ten of the session.
    """

    def __init__(self, folder: pathlib.Path, steps: int) -> None:
        super().__init__()
        self._folder = str(folder)
        self._steps = steps
        self._seen = 0
        self._state = "before"

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Opens the window."""
        if self._state != "before" or self._seen < SETTLING:
            return
        try:
            tf.profiler.experimental.start(self._folder)
        except tf.errors.OpError as error:  # another profiler is at work, or no disk
            _LOG.warning("--profile records nothing: %s", error.message)
            self._state = "after"
            return
        self._state = "inside"

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Closes it after its last step."""
        self._seen += self.model.steps_per_execution
        if self._state == "inside" and self._seen >= SETTLING + self._steps:
            self._stop()

    def close(self) -> None:
        """Ends a window that the training did not fill."""
        if self._state == "inside":
            self._stop()
        elif self._state == "before":
            _LOG.warning(
                "--profile recorded nothing: it begins after %d steps of a session, and there were "
                "%d",
                SETTLING,
                self._seen,
            )

    def _stop(self) -> None:
        self._state = "after"
        try:
            tf.profiler.experimental.stop()
        except (tf.errors.OpError, OSError) as error:
            _LOG.warning("--profile could not write its record: %s", error)
