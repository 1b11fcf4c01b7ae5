"""The function that ``Model.fit`` calls for its steps, under every strategy."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

TrainFunction = Callable[[Any], dict[str, tf.Tensor]]


class InputWait:
    """The time that the training loop has spent waiting for its next batch.

    It is taken inside the step's graph, around the iterator's next, and added up on the host;
    nothing waits for a step's result before `seconds` is read. On a CPU it is the time in which the
    training stood still. An accelerator works on while the host waits, so that there it is an upper
    bound: near 0, the input is fast enough; near the whole time, the input or the accelerator's own
    queue may be what holds the loop.
    """

    def __init__(self) -> None:
        self._total = tf.zeros([], tf.float64)

    def add(self, seconds: tf.Tensor) -> None:
        """Counts a float64 scalar, which may still be computed."""
        with tf.device("CPU:0"):
            self._total = self._total + seconds

    @property
    def seconds(self) -> float:
        """All the time since the model was made."""
        return float(self._total)


def make_train_function(model: keras.Model) -> TrainFunction:
    """Builds the function that takes ``steps_per_execution`` steps and returns the metrics.

    Keras's own reduces the step's results in a way that several workers do not allow; the metrics
    hold them already.

    Args:
        model: compiled, its optimizer built; ``train_step`` moves ``metrics``. Its ``view_maker``,
            unless None, makes the views of batches of ``"images"`` and ``"counter"``.

    Returns:
        A function of an iterator over batches. It counts into the model's ``input_wait``.

    Raises:
        ValueError: the optimizer has no variables yet.
    """
    if not model.optimizer.built:
        raise ValueError(
            "call prepare(image_size) after compile, in the strategy's scope. Received: "
            f"{model.name} without variables"
        )
    strategy = model.distribute_strategy

    # As in Keras, Python decides nothing by a tensor's value; converting the code takes seconds.
    @tf.autograph.experimental.do_not_convert
    def step(batch: Any) -> Any:
        return model.train_step(_with_views(model, batch))

    run: Any = step
    if model.jit_compile and strategy.num_replicas_in_sync == 1:
        run = tf.function(step, jit_compile=True, reduce_retracing=True)

    @tf.autograph.experimental.do_not_convert
    def train_function(iterator: Any) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        def one(done: tf.Tensor, waited: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch, seconds = _timed_next(iterator)
            strategy.run(run, args=(batch,))
            return done + 1, waited + seconds

        state = tf.constant(0), tf.zeros([], tf.float64)
        if (steps := model.steps_per_execution) == 1:
            state = one(*state)
        else:  # a loop within the graph: traced once, however many steps it takes
            state = tf.while_loop(lambda done, _: done < steps, one, state, parallel_iterations=1)
        waited = state[1]
        return {metric.name: metric.result() for metric in model.metrics}, waited

    compiled: Any = train_function if model.run_eagerly else tf.function(train_function)

    def counted(iterator: Any) -> dict[str, tf.Tensor]:
        results, waited = compiled(iterator)
        model.input_wait.add(waited)
        return results

    if not model.run_eagerly:
        counted.get_concrete_function = compiled.get_concrete_function  # type: ignore[attr-defined]
    return counted


def _with_views(model: keras.Model, batch: Any) -> Any:
    """The batch, its views made here if the input has left them to the step."""
    if model.view_maker is None:
        return batch
    return {**batch, "views": model.view_maker(batch["images"], batch["counter"])}


def _timed_next(iterator: Any) -> tuple[Any, tf.Tensor]:
    """The next batch, and the seconds until it was there."""
    with tf.device("CPU:0"):
        start = tf.timestamp()
    with tf.control_dependencies([start]):
        batch = next(iterator)
    there = tf.nest.flatten(batch, expand_composites=True)
    with tf.control_dependencies(there), tf.device("CPU:0"):
        end = tf.timestamp()

    def after_end(part: tf.Tensor) -> tf.Tensor:
        with tf.device(part.device):
            return tf.identity(part)

    # Else the step, ready as soon, may run first: on one core the wait would hold its time.
    with tf.control_dependencies([end]):
        batch = tf.nest.map_structure(after_end, batch, expand_composites=True)
    return batch, end - start
