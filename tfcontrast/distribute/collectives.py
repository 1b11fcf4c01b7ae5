"""Replica numbers and exact collectives, for code that runs on every replica of a step.

Every function here is the identity (or its trivial form) on one replica, so that methods and losses
are written once.
"""

import tensorflow as tf


def num_replicas() -> int:
    """Replicas that take this step together; 1 outside of a step."""
    context = tf.distribute.get_replica_context()
    return 1 if context is None else int(context.num_replicas_in_sync)


def replica_id() -> tf.Tensor:
    """This replica's number, an int32 scalar; 0 on one replica and outside of a step."""
    context = tf.distribute.get_replica_context()
    if context is None:
        return tf.constant(0)
    return tf.cast(context.replica_id_in_sync_group, tf.int32)


def all_sum(tensor: tf.Tensor) -> tf.Tensor:
    """Sums a tensor over the replicas; its gradient is again a sum over the replicas."""
    if num_replicas() == 1:
        return tensor
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tensor)


def gather(rows: tf.Tensor) -> tf.Tensor:
    """Concatenates every replica's rows, in replica order, with exact gradients to every replica.

    Each replica places its block into zeros and the blocks are summed: static shapes, bfloat16 and
    XLA stay possible, which ``ReplicaContext.all_gather`` does not give. All replicas must hold
    equally many rows.

    Args:
        rows: [rows, ...] of this replica.

    Returns:
        [num_replicas * rows, ...], the same on every replica.
    """
    count = num_replicas()
    if count == 1:
        return rows
    place = tf.one_hot(replica_id(), count, dtype=rows.dtype)
    blocks = all_sum(tf.reshape(place, [count] + [1] * rows.shape.rank) * rows[None])
    return tf.concat(tf.unstack(blocks), 0)


def first_row(rows: tf.Tensor) -> tf.Tensor:
    """Where this replica's block starts in ``gather(rows)``, an int32 scalar."""
    return replica_id() * tf.shape(rows)[0]
