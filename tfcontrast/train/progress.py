"""Progress: a bar in a terminal, one plain line an epoch elsewhere."""

import contextlib
import os
import sys
import time
from typing import Any

import keras
from tqdm import tqdm

from tfcontrast.train.console import say

# The order in which an epoch's numbers are printed; others follow as they come.
_SHORT = {
    "loss": "loss",
    "contrastive_accuracy": "contrastive",
    "train_top1": "train top-1",
    "probe_top1": "probe",
    "monitor_knn_top1": "held-out kNN",
}
_SHARES = ("contrastive_accuracy", "train_top1", "probe_top1", "monitor_knn_top1")


class Progress(keras.callbacks.Callback):
    """Shows epoch, step, loss, images a second and the time that is left.

    Args:
        batch_size: images of a step.
        epochs: the run's epochs.
        total_steps: the run's steps.
        first_step: the steps that an earlier session has taken.
    """

    def __init__(self, *, batch_size: int, epochs: int, total_steps: int, first_step: int) -> None:
        super().__init__()
        self._batch_size, self._epochs = batch_size, epochs
        self._total, self._first, self._step = total_steps, first_step, first_step
        self._epoch = 0
        self._bar: tqdm | None = None
        self._start = time.perf_counter()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Opens the bar where there is a terminal."""
        if _shows_bars() and self._bar is None:
            self._bar = tqdm(
                total=self._total * self._batch_size,
                initial=self._step * self._batch_size,
                unit=" images",
                unit_scale=True,
                dynamic_ncols=True,
                file=sys.stdout,
                leave=False,
                mininterval=0.5,
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remembers the epoch's number."""
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar."""
        steps = self.model.steps_per_execution
        self._step += steps
        if self._bar is not None:
            # words first: the update draws them
            self._bar.set_description(
                f"epoch {self._epoch}/{self._epochs} step {self._step}/{self._total}", refresh=False
            )
            if self._step % 10 == 0 and logs:
                self._bar.set_postfix(loss=f"{float(logs['loss']):.4f}", refresh=False)
            self._bar.update(steps * self._batch_size)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Prints the epoch's line; above the bar only where a monitor has measured."""
        line = self._line(epoch, logs or {})
        if self._bar is None:
            say(line)
        elif "monitor_knn_top1" in (logs or {}):
            self._bar.write(line, file=sys.stdout)

    def _line(self, epoch: int, logs: dict[str, Any]) -> str:
        parts = [f"epoch {epoch + 1}/{self._epochs}", f"step {self._step}/{self._total}"]
        for name, short in _SHORT.items():
            if name in logs:
                value = float(logs[name])
                parts.append(
                    f"{short} {100 * value:.1f} %" if name in _SHARES else f"{short} {value:.4f}"
                )
        if "examples_per_second" in logs:
            parts.append(f"{logs['examples_per_second']:.0f} images/s")
        if "input_wait_share" in logs:
            parts.append(f"input wait {100 * logs['input_wait_share']:.0f} %")
        done = self._step - self._first
        left = (time.perf_counter() - self._start) / max(done, 1) * (self._total - self._step)
        parts.append(f"{_clock(left)} left")
        return "  ".join(parts)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _shows_bars() -> bool:
    """Whether standard output is a terminal of some width; some containers say that it is 0."""
    if not sys.stdout.isatty():
        return False
    with contextlib.suppress(OSError, ValueError):  # no file behind it: nothing is known
        return os.get_terminal_size(sys.stdout.fileno()).columns > 0
    return True


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
