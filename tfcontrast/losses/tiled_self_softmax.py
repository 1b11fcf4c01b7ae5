"""The denominators of a softmax of rows among themselves, in tiles, each pair computed once.

``tiled_softmax`` for rows that are compared with each other: the logit of (i, j) is that of (j, i),
so half of the tiles tell all. One exponential serves both rows if both subtract the same number,
which bounded logits allow.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfcontrast.losses.tiled_softmax import join, loop, put, split, tile_sizes

# exp(-80) is a normal number in float32, and so is exp(80).
_WIDEST = 80.0


def one_shift_serves(temperature: float) -> bool:
    """Whether the exponentials of all cosines over t fit into float32 after one shift for all.

    Args:
        temperature: t > 0.

    Returns:
        True from t = 1 / 40 on: exp((s - 1) / t) is then at least exp(-80).

    Example:
        >>> one_shift_serves(0.1), one_shift_serves(0.001)
        (True, False)
    """
    return 2 / temperature <= _WIDEST


def tiled_self_softmax(rows: tf.Tensor, *, temperature: float) -> tf.Tensor:
    """Row-wise log-sum-exp of all cosines of a row with the others over t, without their matrix.

        out_i = log sum_{j != i} exp(u_i . u_j / t)

    Works on ``TILE`` squared logits at a time, so that memory grows with n. There is no gradient of
    the gradient.

    Args:
        rows: [n, d] float32 or float64, unit rows; n is known when the graph is made and above 1.
        temperature: t, for which ``one_shift_serves``.

    Returns:
        [n].

    Example:
        >>> tiled_self_softmax(tf.eye(3), temperature=0.5).numpy().round(4).tolist()  # log 2
        [0.6930999755859375, 0.6930999755859375, 0.6930999755859375]
    """
    count = rows.shape[0]
    size, _ = tile_sizes(count, count)
    shift = 1 / temperature

    @tf.custom_gradient
    def softmax(rows: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        tiles = split(rows, size)
        totals = join(_totals(tiles, count, shift), count)
        log_sum_exp = tf.math.log(totals) + shift

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            # Row i's weight before the shifted exponentials: upstream_i / sum_j exp(l_ij - shift).
            weights = split(upstream / totals, size)
            return join(_gradient(tiles, count, shift, weights), count) * shift

        return log_sum_exp, gradient

    return softmax(rows)


def _exponentials(tiles: tf.Tensor, i: tf.Tensor, j: tf.Tensor, count: int, s: float) -> tf.Tensor:
    """exp(u . v s - s) of tile (i, j >= i), 0 for a row with itself and for padding."""
    size = tiles.shape[1]
    terms = tf.exp(tf.matmul(tiles[i] * s, tiles[j], transpose_b=True) - s)
    diagonal = tf.equal(i, j)
    zeros = tf.zeros([size], terms.dtype)
    terms = tf.cond(diagonal, lambda: tf.linalg.set_diag(terms, zeros), lambda: terms)
    if count % size == 0:
        return terms
    real = tf.range(size) < count % size
    last = count // size

    def without_padding() -> tf.Tensor:
        keep = real & (real | tf.not_equal(i, last))[:, None]
        return tf.where(keep, terms, tf.zeros_like(terms))

    return tf.cond(tf.equal(j, last), without_padding, lambda: terms)


def _totals(tiles: tf.Tensor, count: int, shift: float) -> tf.Tensor:
    """Each row's sum of shifted exponentials, [k, size]."""
    number = tiles.shape[0]

    def next_row(i: tf.Tensor, totals: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        def next_column(
            j: tf.Tensor, mine: tf.Tensor, totals: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            terms = _exponentials(tiles, i, j, count, shift)
            theirs = tf.reduce_sum(terms, axis=0)
            theirs = tf.where(tf.equal(i, j), tf.zeros_like(theirs), theirs)  # they are mine
            return j + 1, mine + tf.reduce_sum(terms, axis=1), put(totals, j, theirs)

        start: Any = (i, tf.zeros(tiles.shape[1:2], tiles.dtype), totals)
        _, mine, totals = loop(number, next_column, start)
        return i + 1, put(totals, i, mine)

    return loop(number, next_row, (0, tf.zeros(tiles.shape[:2], tiles.dtype)))[1]


def _gradient(tiles: tf.Tensor, count: int, shift: float, weights: tf.Tensor) -> tf.Tensor:
    """sum_j (w_i + w_j) exp(l_ij - shift) u_j for every row, [k, size, d].

    A row is an anchor in its own sum and a candidate in those of the others.
    """
    number = tiles.shape[0]

    def next_row(i: tf.Tensor, result: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        anchors, own_weights = tiles[i], weights[i][:, None]

        def next_column(
            j: tf.Tensor, mine: tf.Tensor, result: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            terms = _exponentials(tiles, i, j, count, shift) * (own_weights + weights[j])
            mine += tf.matmul(terms, tiles[j])

            def to_candidates() -> tf.Tensor:
                return put(result, j, tf.matmul(terms, anchors, transpose_a=True))

            return j + 1, mine, tf.cond(tf.equal(i, j), lambda: result, to_candidates)

        _, mine, result = loop(number, next_column, (i, tf.zeros_like(anchors), result))
        return i + 1, put(result, i, mine)

    return loop(number, next_row, (0, tf.zeros_like(tiles)))[1]
