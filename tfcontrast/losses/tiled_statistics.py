"""How surely rows find their columns, without gradients and without the matrix of logits."""

from typing import NamedTuple

import tensorflow as tf

from tfcontrast.losses.tiled_softmax import (
    hide_padding,
    join,
    loop,
    lowest,
    put,
    split,
    tile_sizes,
)


class RowStatistics(NamedTuple):
    """What is known of the softmax of each row.

    Attributes:
        found: bool [n], whether the own logit is the largest; of several equals the first counts,
            as with argmax.
        entropy: [n] in nats.
    """

    found: tf.Tensor
    entropy: tf.Tensor


def tiled_statistics(queries: tf.Tensor, keys: tf.Tensor, own: tf.Tensor) -> RowStatistics:
    """Argmax and entropy of the softmax of every row of queries times keys.

        entropy_i = log sum_j exp(l_ij) - sum_j p_ij l_ij,      l_ij = q_i . k_j

    Args:
        queries: [n, d] float32 or float64, already divided by the temperature.
        keys: [m, d], of the same type. Both sizes are known when the graph is made.
        own: int32 [n], each row's own column.

    Returns:
        Whether each row finds its own column, and its entropy; without gradient.

    Example:
        >>> rows = tiled_statistics(tf.zeros([2, 2]), tf.zeros([4, 2]), tf.constant([0, 3]))
        >>> rows.found.numpy().tolist(), rows.entropy.numpy().round(3).tolist()  # log 4
        ([True, False], [1.3860000371932983, 1.3860000371932983])
    """
    n, m = queries.shape[0], keys.shape[0]
    row_size, column_size = tile_sizes(n, m)
    rows = split(tf.stop_gradient(queries), row_size)
    columns = split(tf.stop_gradient(keys), column_size)
    places = split(tf.ensure_shape(own, [n]), row_size)
    empty = tf.zeros(rows.shape[:2], rows.dtype)

    def next_row(
        i: tf.Tensor, found: tf.Tensor, entropy: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        hit, spread = _one_row(rows[i], columns, places[i], m)
        return i + 1, put(found, i, hit), put(entropy, i, spread)

    _, found, entropy = loop(rows.shape[0], next_row, (0, empty, empty))
    return RowStatistics(join(found, n) > 0, join(entropy, n))


def _one_row(
    queries: tf.Tensor, columns: tf.Tensor, own: tf.Tensor, count: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Of one tile of rows: 1 where the own column is the first best one, and the entropies."""
    size, dtype = columns.shape[1], queries.dtype
    zeros, one = tf.zeros(queries.shape[:1], dtype), tf.ones([], dtype)
    nothing = zeros + lowest(dtype)

    def compare(logits: tf.Tensor, j: tf.Tensor, top: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """The best logit before the own column, the own one, and the best one after it."""
        place = own - j * size

        def around() -> tuple[tf.Tensor, ...]:
            numbers = tf.range(size)
            at = place[:, None]
            before = tf.where(numbers < at, logits, lowest(dtype))
            after = tf.where(numbers > at, logits, lowest(dtype))
            mine = tf.where(tf.equal(numbers, at), logits, tf.zeros_like(logits))
            return (
                tf.reduce_max(before, axis=1), tf.reduce_sum(mine, axis=1),
                tf.reduce_max(after, axis=1),
            )  # fmt: skip

        def elsewhere() -> tuple[tf.Tensor, ...]:
            later = place >= size  # the own column comes after this tile
            return tf.where(later, top, nothing), zeros, tf.where(later, nothing, top)

        inside = tf.reduce_any((place >= 0) & (place < size))
        return tf.cond(inside, around, elsewhere)

    def next_column(
        j: tf.Tensor,
        best: tuple[tf.Tensor, ...],
        sums: tuple[tf.Tensor, ...],
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, ...], tuple[tf.Tensor, ...]]:
        logits = hide_padding(tf.matmul(queries, columns[j], transpose_b=True), j, count)
        top = tf.reduce_max(logits, axis=1)
        before, mine, after = compare(logits, j, top)
        highest = tf.maximum(best[0], top)
        shifted = logits - highest[:, None]
        terms = tf.exp(shifted)
        # With l - highest in the second sum instead of l, nothing large cancels.
        fall = tf.maximum(best[0] - highest, lowest(dtype))
        shrink = tf.exp(fall)
        total, weighted = sums
        # The old terms' logits are now lower by the rise of the maximum.
        weighted = shrink * (weighted + tf.where(shrink > 0, fall, zeros) * total)
        total = shrink * total + tf.reduce_sum(terms, axis=1)
        # Padding has the term 0 and a logit that is still finite.
        weighted += tf.reduce_sum(terms * shifted, axis=1)
        best = (
            highest, tf.maximum(best[1], before), best[2] + mine, tf.maximum(best[3], after)
        )  # fmt: skip
        return j + 1, best, (total, weighted)

    start = (0, (nothing, nothing, zeros, nothing), (zeros, zeros))
    _, (_, before, mine, after), (total, weighted) = loop(columns.shape[0], next_column, start)
    hit = tf.where((mine > before) & (mine >= after), one, 0 * one)
    return hit, tf.math.log(total) - weighted / total
