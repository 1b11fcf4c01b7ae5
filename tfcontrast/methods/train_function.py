"""The function that ``Model.fit`` calls for its steps, under every strategy."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

TrainFunction = Callable[[Any], dict[str, tf.Tensor]]


def make_train_function(model: keras.Model) -> TrainFunction:
    """Builds the function that takes ``steps_per_execution`` steps and returns the metrics.

    Keras's own reduces the step's results in a way that several workers do not allow; the metrics
    hold them already.

    Args:
        model: compiled, its optimizer built; ``train_step`` moves ``metrics``.

    Returns:
        A function of an iterator over batches.

    Raises:
        ValueError: the optimizer has no variables yet.
    """
    if not model.optimizer.built:
        raise ValueError(
            "call prepare(image_size) after compile, in the strategy's scope. Received: "
            f"{model.name} without variables"
        )
    strategy = model.distribute_strategy
    step = model.train_step
    if model.jit_compile and strategy.num_replicas_in_sync == 1:
        step = tf.function(step, jit_compile=True, reduce_retracing=True)

    def train_function(iterator: Any) -> dict[str, tf.Tensor]:
        for _ in range(model.steps_per_execution):
            strategy.run(step, args=(next(iterator),))
        return {metric.name: metric.result() for metric in model.metrics}

    compiled: TrainFunction = train_function if model.run_eagerly else tf.function(train_function)
    return compiled
