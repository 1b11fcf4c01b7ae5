"""The order of training: which example stands in which row of which step, by the seed alone."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfcontrast.data.host import as_written
from tfcontrast.errors import UserError

_FOREVER = 2**62


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Full batches in one pass, N // B; the rest of each pass is left out of that pass.

    Raises:
        UserError: not even one batch is full.
    """
    if batch_size < 1:
        raise UserError(f"--train_batch_size must be positive. Received: {batch_size}")
    if batch_size > num_examples:
        raise UserError(
            f"--train_batch_size={batch_size} is larger than the training set of {num_examples} "
            f"images; at most {num_examples} would be accepted"
        )
    return num_examples // batch_size


def index_stream(
    num_examples: int,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    share: tuple[int, int, int] = (0, 1, 1),
    steps: tf.data.Dataset | None = None,
    order: np.ndarray[Any, Any] | None = None,
) -> tf.data.Dataset:
    """The infinite stream of batches of indices; from step k on it is the tail of the one from 0.

    Step s belongs to epoch s // (N // B). Each epoch has its own permutation, drawn from (seed,
    epoch) by a stateless shuffle (Philox), of which it uses the first (N // B) * B entries. A start
    at any step costs one permutation.

    Args:
        num_examples: N.
        batch_size: B.
        seed: any integer; its low 64 bits count.
        start_step: number of the first step, >= 0.
        share: (first replica, replicas, all replicas): only the rows of these consecutive
            replicas, of which each has B / all.
        steps: the numbers of the steps instead of all from `start_step` on.
        order: int64 [N // B * B], indices in [0, N): the order of every epoch instead of the
            permutations; for methods that sample, which make a stream for each epoch.

    Returns:
        Dataset of (counters, indices), both int64 [rows]: counters step * B + row number the
        examples of the whole run, indices are in [0, N).

    Raises:
        UserError: the batch is larger than the data set.
        ValueError: `start_step` is negative, there is no such share, or the order is no such array.
    """
    if start_step < 0:
        raise ValueError(f"start_step must not be negative. Received: {start_step}")
    first, count, everyone = share
    if first < 0 or count < 1 or first + count > everyone or batch_size % everyone:
        raise ValueError(
            "share must be (first replica, replicas, all replicas), and the batch a multiple of "
            f"all. Received: share={share}, batch_size={batch_size}"
        )
    per_epoch = steps_per_epoch(num_examples, batch_size)
    each = batch_size // everyone
    rows = first * each + np.arange(count * each, dtype=np.int64)
    if steps is None:
        # A range and not a counter, since a service deals out the elements of what has an end.
        steps = tf.data.Dataset.range(start_step, _FOREVER).repeat()
    if order is not None:
        return _in_order(steps, order, rows, num_examples, batch_size)
    low_bits = (seed + 2**63) % 2**64 - 2**63

    def permutation(epoch: tf.Tensor) -> tf.Tensor:
        return tf.random.experimental.stateless_shuffle(
            tf.range(num_examples, dtype=tf.int64),
            seed=tf.stack([tf.constant(low_bits, tf.int64), epoch]),
            alg="philox",
        )

    @as_written
    def rows_of(state: tuple[tf.Tensor, tf.Tensor], step: tf.Tensor) -> Any:
        epoch = step // per_epoch
        order = tf.cond(state[0] == epoch, lambda: state[1], lambda: permutation(epoch))
        indices = tf.gather(order, step % per_epoch * batch_size + rows)
        return (epoch, order), (step * batch_size + rows, indices)

    none_yet = (tf.constant(-1, tf.int64), tf.zeros([num_examples], tf.int64))
    return steps.scan(none_yet, rows_of)


def _in_order(
    steps: tf.data.Dataset,
    order: np.ndarray[Any, Any],
    rows: np.ndarray[Any, Any],
    num_examples: int,
    batch_size: int,
) -> tf.data.Dataset:
    """The batches of these steps when every epoch has this order."""
    per_epoch = steps_per_epoch(num_examples, batch_size)
    right = order.shape == (per_epoch * batch_size,) and np.issubdtype(order.dtype, np.integer)
    if not right or order.min() < 0 or order.max() >= num_examples:
        raise ValueError(
            f"order must hold {per_epoch * batch_size} indices below {num_examples}. Received: "
            f"{order.dtype} {list(order.shape)}, {order.min()} to {order.max()}"
        )
    with tf.device("CPU:0"):
        kept = tf.constant(order, tf.int64)

    @as_written
    def rows_of(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        indices = tf.gather(kept, step % per_epoch * batch_size + rows)
        return step * batch_size + rows, indices

    return steps.map(rows_of)
