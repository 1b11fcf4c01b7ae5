"""TensorBoard: every metric of an epoch, and a picture of the views at the start."""

import contextlib
import logging
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcontrast.train.console import plain


class TensorBoard(keras.callbacks.Callback):
    """Writes the logs that the callbacks before it have completed.

    A disk that is full costs points, not the training: the user is told once.

    Args:
        folder: the run's folder; each session adds an events file of its own.
        every: steps between points; 0: once an epoch.
    """

    def __init__(self, folder: pathlib.Path, *, every: int = 0) -> None:
        super().__init__()
        self._writer = tf.summary.create_file_writer(str(folder), filename_suffix=".train")
        self._folder = folder
        self._every = every
        self._step = 0
        self._told = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Reads the step once; afterwards it is counted."""
        self._step = int(tf.convert_to_tensor(self.model.optimizer.iterations))

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Counts, and writes where points are wanted by the step."""
        self._step += self.model.steps_per_execution
        if self._every and self._step % self._every == 0 and logs:
            self._write(
                {
                    **logs,
                    "learning_rate": float(
                        tf.convert_to_tensor(self.model.optimizer.learning_rate)
                    ),
                }
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the epoch's numbers at its last step."""
        self._write(logs or {})

    def _write(self, logs: dict[str, Any]) -> None:
        with self._surviving(), self._writer.as_default(step=self._step):
            for name, value in logs.items():
                tf.summary.scalar(name, float(value))
            self._writer.flush()

    def write_views(self, views: Sequence[tf.Tensor], *, most: int = 8) -> None:
        """Writes a picture: a column an image, a row a view.

        Args:
            views: tensors [B, H, W, 3] in [0, 1].
            most: images shown.
        """
        with self._surviving(), self._writer.as_default(step=0):
            tf.summary.image("views", contact_sheet(views, most=most)[None])
            self._writer.flush()

    def close(self) -> None:
        """Closes the events file."""
        with self._surviving():
            self._writer.close()

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            if not self._told:
                logging.getLogger(__name__).error(
                    "TensorBoard's points cannot be written to %s (%s); training goes on",
                    self._folder,
                    plain(error.message),
                )
            self._told = True


def contact_sheet(views: Sequence[tf.Tensor], *, most: int = 8, least_side: int = 64) -> np.ndarray:
    """Lays views out as one picture, small ones enlarged without smoothing.

    Args:
        views: V tensors [B, H, W, 3] in [0, 1]; sizes may differ.
        most: images shown.
        least_side: pixels that a cell has at least.

    Returns:
        uint8 [V * side, min(B, most) * side, 3], with a white line between cells.
    """
    side = max(least_side, *(view.shape[1] for view in views))
    rows = []
    for view in views:
        cells = tf.image.resize(view[:most], [side - 2, side - 2], method="nearest")
        cells = tf.pad(cells, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=1.0)
        rows.append(np.concatenate(list(cells.numpy()), axis=1))
    return np.clip(np.concatenate(rows, axis=0) * 255, 0, 255).astype(np.uint8)
