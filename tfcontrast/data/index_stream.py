"""The order of training: which example stands in which row of which step, by the seed alone."""

import tensorflow as tf

from tfcontrast.errors import UserError


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
    num_examples: int, batch_size: int, *, seed: int, start_step: int = 0
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

    Returns:
        Dataset of (counters, indices), both int64 [B]: counters step * B + row number the examples
        of the whole run, indices are in [0, N).

    Raises:
        UserError: the batch is larger than the data set.
        ValueError: `start_step` is negative.
    """
    if start_step < 0:
        raise ValueError(f"start_step must not be negative. Received: {start_step}")
    steps = steps_per_epoch(num_examples, batch_size)
    first_epoch, first_row = divmod(start_step, steps)
    low_bits = (seed + 2**63) % 2**64 - 2**63

    def batches_of(epoch: tf.Tensor) -> tf.data.Dataset:
        everyone = tf.range(num_examples, dtype=tf.int64)
        order = tf.random.experimental.stateless_shuffle(
            everyone, seed=tf.stack([tf.constant(low_bits, tf.int64), epoch]), alg="philox"
        )
        used = steps * batch_size
        counters = tf.range(used, dtype=tf.int64) + epoch * used
        begin = tf.where(epoch == first_epoch, tf.constant(first_row, tf.int64), 0)
        rows = (
            tf.reshape(counters, [steps, batch_size])[begin:],
            tf.reshape(order[:used], [steps, batch_size])[begin:],
        )
        return tf.data.Dataset.from_tensor_slices(rows)

    epochs = tf.data.Dataset.counter(start=first_epoch, dtype=tf.int64)
    return epochs.flat_map(batches_of)
