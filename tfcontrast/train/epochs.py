"""From epoch to epoch: calls of ``fit``, and what a method does between them.

Most methods train their whole epochs in one call of ``fit``. One that orders its epochs by its
state (``reorders``) gets a call for each, since the data set can be made only after the method has
begun the epoch.
"""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast import distribute, evaluate
from tfcontrast.methods import Method
from tfcontrast.train import checkpoints, state
from tfcontrast.train.divergence import BadSteps

_LOG = logging.getLogger(__name__)


class OrderChanged(Exception):
    """The state from which the epoch's order follows was put back to an older one."""


class RunOver:
    """Applies a function to all training images as they are: what ``begin_epoch`` gets.

    Args:
        source: the training images; for one that cannot be read the next one stands in.
        image_size: side of the images in pixels.
        batch_size: images at once.
        between_batches: called before every batch; may raise what breaks it off.
    """

    def __init__(
        self,
        source: data_lib.Source,
        *,
        image_size: int,
        batch_size: int,
        between_batches: Callable[[], None] = lambda: None,
    ) -> None:
        self._dataset = data_lib.eval_dataset(
            source, image_size=image_size, batch_size=batch_size, every_place=True
        )
        self._between_batches = between_batches
        self._traced: dict[Any, Any] = {}

    def __call__(self, function: Callable[[tf.Tensor], tf.Tensor]) -> np.ndarray[Any, Any]:
        """Runs it.

        Args:
            function: [B, H, W, 3] in [0, 1] to [B, D]; the same one, such as a bound method, is
                traced once.

        Returns:
            float32 [num_examples, D], in the order of the images' ``index``.
        """
        if function not in self._traced:
            self._traced = {function: tf.function(function)}
        return evaluate.extract_features(self._traced[function], self._batches())[0]

    def _batches(self) -> Iterator[Any]:
        for batch in self._dataset:
            self._between_batches()
            yield batch


class EpochBegin(keras.callbacks.Callback):
    """Lets a method begin its epochs; the first callback, so that no clock counts it.

    Args:
        run_over: what the method gets.
        per_epoch: steps of an epoch.
    """

    def __init__(self, run_over: RunOver, *, per_epoch: int) -> None:
        super().__init__()
        self._run_over, self._per_epoch = run_over, per_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begins it, but for one that is resumed in its middle, or was begun before ``fit``."""
        step = int(tf.convert_to_tensor(self.model.optimizer.iterations))
        if not self.model.reorders and step % self._per_epoch == 0:
            self.begin(self.model, epoch)

    def begin(self, method: Method, epoch: int) -> None:
        """Begins an epoch; of several workers all go on with the chief's state."""
        start = time.perf_counter()
        method.begin_epoch(epoch, self._run_over)
        if distribute.num_workers(method.distribute_strategy) > 1:
            # The last bits of features differ between machines, and with them the clusters.
            everything = state.model_state(method)
            own = {k: v for k, v in everything.items() if not k.startswith("backbone/")}
            arrays = distribute.chiefs_arrays(method.distribute_strategy, state.values(own))
            checkpoints.restore(own, arrays, source="the chief")
        _LOG.debug("epoch %d was begun in %.1f s", epoch + 1, time.perf_counter() - start)


class OrderWatch(keras.callbacks.Callback):
    """Leaves ``fit`` when a rollback has put back what the epoch's order follows from.

    The rest of the epoch is then ordered by the older state, which is what a run that is resumed
    from a later checkpoint of this epoch finds. The last callback: the others see the step.

    Args:
        bad_steps: what rolls back.
    """

    def __init__(self, bad_steps: BadSteps) -> None:
        super().__init__()
        self._bad_steps, self._seen = bad_steps, bad_steps.rollbacks

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks whether there was one.

        Raises:
            OrderChanged: there was, and the epoch has steps left.
        """
        before, self._seen = self._seen, self._bad_steps.rollbacks
        if self.model.reorders and self._seen != before and batch + 1 != self.params["steps"]:
            raise OrderChanged


class _RestoredMetrics(keras.callbacks.Callback):
    """Gives the running metrics of a broken-off epoch back, after ``fit`` has reset them."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        super().__init__()
        self._arrays = arrays

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        checkpoints.restore(_metrics(self.model), self._arrays, source="the checkpoint")


def _metrics(method: Method) -> dict[str, keras.Variable]:
    return {k: v for k, v in state.full_state(method).items() if k.startswith("metrics/")}


def segment(step: int, last: int, per_epoch: int, *, alone: bool = False) -> tuple[int, int, int]:
    """The next call of ``fit``: (its first epoch, the one after its last, steps an epoch).

    A broken-off epoch and a last epoch that ``train_steps`` cuts short are calls of their own.

    Args:
        step: steps that are done, below ``last``.
        last: the run's last step.
        per_epoch: steps of an epoch.
        alone: every epoch is a call of its own.
    """
    epoch = step // per_epoch
    rest = min(last, (epoch + 1) * per_epoch) - step
    if alone or rest < per_epoch:
        return epoch, epoch + 1, rest
    return epoch, last // per_epoch, per_epoch


def fit_epochs(
    method: Method,
    batches: Callable[[int, np.ndarray[Any, Any] | None], Any],
    begin: EpochBegin | None,
    *,
    steps: tuple[int, int, int],
    callbacks: list[keras.callbacks.Callback],
    arrays: dict[str, Any],
) -> dict[str, float]:
    """Trains from a step to the last.

    Args:
        method: the method in the state of that step.
        batches: gives the data set from a step on, in the order of its epoch or, with None, in the
            usual one.
        begin: begins epochs; None for a method that has nothing to do between them.
        steps: (steps that are done, the last step, steps of an epoch).
        callbacks: of every call of ``fit``.
        arrays: the state of a checkpoint amid an epoch, for its running metrics.

    Returns:
        The last epoch's numbers; empty when no step was left.
    """
    history: dict[str, float] = {}
    step, last, per_epoch = steps
    while step < last:
        epoch, until, length = segment(step, last, per_epoch, alone=method.reorders)
        if begin is not None and method.reorders and step % per_epoch == 0:
            # A stop is possible in it, for which the callbacks must know model and step.
            keras.callbacks.CallbackList(callbacks, model=method).on_train_begin()
            begin.begin(method, epoch)
        order = method.epoch_order(epoch) if method.reorders else None
        broken_off = [_RestoredMetrics(arrays)] if step % per_epoch else []
        try:
            fitted = method.fit(
                batches(step, order),
                initial_epoch=epoch,
                epochs=until,
                steps_per_epoch=length,
                callbacks=[*broken_off, *callbacks],
                shuffle=False,
                verbose=0,
            )
        except OrderChanged:
            step, arrays = int(method.current_step()), state.values(_metrics(method))
            continue
        history = {name: float(values[-1]) for name, values in fitted.history.items()}
        step += (until - epoch) * length
    return history


def overrides_begin(method: Method) -> bool:
    """Whether a method has something to do between epochs."""
    return type(method).begin_epoch is not Method.begin_epoch
