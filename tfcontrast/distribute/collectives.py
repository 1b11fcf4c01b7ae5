"""Replica numbers and exact collectives, for code that runs on every replica of a step.

Every function here is the identity (or its trivial form) on one replica, so that methods and losses
are written once.
"""

import tensorflow as tf

# Keeps these draws apart from others that start from the run's seed.
_PERMUTATIONS = 0x70657275

# What a sum over replicas does not take, by what carries it exactly: bfloat16 holds 0 to 256.
_CARRIERS = {tf.uint8: tf.bfloat16}


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


def gather(rows: tf.Tensor, *, differentiable: bool = True) -> tf.Tensor:
    """Concatenates every replica's rows, in replica order, with exact gradients to every replica.

    Each replica places its block into zeros and the blocks are summed: static shapes, bfloat16 and
    XLA stay possible, which ``ReplicaContext.all_gather`` does not give. All replicas must hold
    equally many rows. A row that is not finite stays the only one.

    Args:
        rows: [rows, ...] of this replica; floats, integers, or uint8 (which travels as bfloat16).
        differentiable: pass gradients on, at the cost of one more collective on the way back. Keys,
            queues and banks need none. A loss that each replica computes from its own anchors does:
            without it, what the anchors of other replicas would say is lost.

    Returns:
        [num_replicas * rows, ...], the same on every replica.
    """
    if not differentiable:
        # before the collective, so that no gradient tape ever sees it
        rows = tf.stop_gradient(rows)
    count = num_replicas()
    if count == 1:
        return rows
    carried = tf.cast(rows, _CARRIERS.get(rows.dtype, rows.dtype))
    mine = tf.reshape(tf.equal(tf.range(count), replica_id()), [count] + [1] * rows.shape.rank)
    blocks = all_sum(tf.where(mine, carried[None], tf.zeros([], carried.dtype)))
    return tf.cast(tf.concat(tf.unstack(blocks), 0), rows.dtype)


def first_row(rows: tf.Tensor) -> tf.Tensor:
    """Where this replica's block starts in ``gather(rows)``, an int32 scalar."""
    return replica_id() * tf.shape(rows)[0]


def permutation(count: int, *, seed: int, step: int | tf.Tensor) -> tf.Tensor:
    """Draws an order of the global batch's rows, the same on every replica and device.

    Args:
        count: rows of the global batch.
        seed: the run's seed.
        step: the training step; a resumed run draws what the uninterrupted one would have.

    Returns:
        int32 [count], a permutation of 0 .. count - 1, for ``shuffle`` and ``unshuffle``.
    """
    key = tf.stack([tf.constant(seed ^ _PERMUTATIONS, tf.int64), tf.cast(step, tf.int64)])
    keys = tf.random.stateless_uniform([count], key, None, None, tf.int32, alg="philox")
    return tf.argsort(keys, stable=True)


def shuffle(rows: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Deals the rows of all replicas out anew: global row i becomes the old row ``order[i]``.

    With it the key of an image is normalised beside other images than its query is, so that batch
    norm's statistics do not give the answer away (He et al., "Momentum Contrast", 2020, section
    3.3, "Shuffling BN").

    Args:
        rows: [rows, ...] of this replica; images as uint8, bfloat16 or float32. The values do not
            change.
        order: int32 [num_replicas * rows], a permutation, the same on every replica.

    Returns:
        [rows, ...], this replica's block of the permuted global batch.

    Raises:
        ValueError: the order is not of the global batch's length.
    """
    return tf.gather(gather(rows), _block(rows, order))


def unshuffle(rows: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """Undoes ``shuffle`` with the same order, on what was made of its rows.

    Args:
        rows: [rows, ...] of this replica, one for each row that ``shuffle`` gave it.
        order: the order that ``shuffle`` took.

    Returns:
        [rows, ...], for this replica's own rows.

    Raises:
        ValueError: the order is not of the global batch's length.
    """
    places = tf.range(tf.size(order, order.dtype), dtype=order.dtype)
    inverse = tf.scatter_nd(order[:, None], places, tf.shape(order, order.dtype))
    return tf.gather(gather(rows), _block(rows, tf.ensure_shape(inverse, order.shape)))


def _block(rows: tf.Tensor, order: tf.Tensor) -> tf.Tensor:
    """This replica's part of an order of the global batch."""
    count = num_replicas()
    local, everyone = rows.shape[0], order.shape[0]
    if local is not None and everyone is not None and everyone != count * local:
        raise ValueError(
            f"order must have one entry for each of {count} * {local} rows. Received: {everyone}"
        )
    size = tf.shape(rows)[0] if local is None else local
    block = tf.reshape(order, [count, size])
    return tf.gather(block, replica_id())
