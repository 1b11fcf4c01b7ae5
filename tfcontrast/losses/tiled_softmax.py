"""The denominator of a softmax over more candidates than memory holds logits for.

The logits are made tile by tile, twice: once for the logarithm of the sum, which is kept, and once
more for the gradient. The decomposition is that of Cheng et al.: Breaking the Memory Barrier: Near
Infinite Batch Size Scaling for Contrastive Loss (2024, arXiv:2410.17243), section 3.2. It is exact.
No collective runs inside: a loop may not hold one under MirroredStrategy, so callers gather first.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

# Logits from which the losses work in tiles. Measured on two cores (CPU seconds of the loss and its
# gradient, d = 128): NT-Xent on one replica is as fast both ways near 2^21 logits and faster in
# tiles from 2^22 on; other rows and columns are as fast both ways near 2^24.
TILED_LOGITS = 2**22
# Rows and columns of a tile. One of float32 takes 1 MB, which a core's cache holds in large part.
TILE = 512


class Exclusion(NamedTuple):
    """Which logits do not count.

    Attributes:
        own: int32 [n], one column per row that does not count; None: all count.
        row_classes: int32 [n], a class for each row; None: classes do not matter.
        column_classes: int32 [m], a class for each column.
        same_class: with classes, whether those of the row's class count, or all others.
    """

    own: tf.Tensor | None = None
    row_classes: tf.Tensor | None = None
    column_classes: tf.Tensor | None = None
    same_class: bool = False


class RowSoftmax(NamedTuple):
    """What is known of each row of logits after one pass over them.

    Attributes:
        log_sum_exp: [n], of the columns that count; 0 where none does. The one with a gradient.
        best: [n], the largest logit that counts; a huge negative number where none does.
        own: [n], the logit of the row's own column, computed as all others are; 0 without ``own``.
    """

    log_sum_exp: tf.Tensor
    best: tf.Tensor
    own: tf.Tensor


def in_tiles(rows: tf.Tensor, columns: tf.Tensor) -> bool:
    """Whether rows [n, d] against columns [m, d] have too many logits to hold them all.

    Sizes that are unknown when the graph is made count as small: their logits are all held.

    Args:
        rows: [n, ...].
        columns: [m, ...].

    Returns:
        True from ``TILED_LOGITS`` logits on.

    Example:
        >>> in_tiles(tf.zeros([8, 2]), tf.zeros([16, 2]))
        False
    """
    n, m = rows.shape[0], columns.shape[0]
    return n is not None and m is not None and n * m >= TILED_LOGITS


def tiled_softmax(
    queries: tf.Tensor,
    keys: tf.Tensor,
    *,
    exclusion: Exclusion | None = None,
    queries_learn: bool = True,
    keys_learn: bool = True,
) -> RowSoftmax:
    """Row-wise log-sum-exp of queries times keys, without the matrix of logits.

        out_i = log sum_{j counts for i} exp(q_i . k_j)

    Works on ``TILE`` squared logits at a time, so that memory grows with n + m. A row's largest
    logit is subtracted as it is known so far, and what was summed is rescaled when it rises. There
    is no gradient of the gradient.

    Args:
        queries: [n, d] float32 or float64, already divided by the temperature.
        keys: [m, d], of the same type. Both sizes are known when the graph is made.
        exclusion: the logits that do not count; None: all count.
        queries_learn: whether queries get a gradient; False spares the work.
        keys_learn: whether keys get one.

    Returns:
        The log-sum-exp [n], the best logit and the own one; only the first has a gradient.

    Example:
        >>> z = tf.ones([4, 2])
        >>> round(float(tiled_softmax(z, 0 * z).log_sum_exp[0]), 4)  # log 4
        1.3863
    """
    n, m = queries.shape[0], keys.shape[0]
    row_size, column_size = tile_sizes(n, m)
    mask = _masker(exclusion or Exclusion(), n, m, row_size, column_size)

    @tf.custom_gradient
    def softmax(queries: tf.Tensor, keys: tf.Tensor) -> tuple[Any, Callable[..., Any]]:
        row_tiles, column_tiles = split(queries, row_size), split(keys, column_size)
        results = [join(rows, n) for rows in _forward(row_tiles, column_tiles, mask)]

        def gradient(upstream: tf.Tensor, *_: Any) -> tuple[Any, Any]:
            d_rows, d_columns = _backward(
                row_tiles,
                column_tiles,
                mask,
                split(results[0], row_size),
                split(upstream, row_size),
                learners=(queries_learn, keys_learn),
            )
            return (
                join(d_rows, n) if queries_learn else None,
                join(d_columns, m) if keys_learn else None,
            )

        return tuple(results), gradient

    log_sum_exp, best, own = softmax(queries, keys)
    return RowSoftmax(log_sum_exp, tf.stop_gradient(best), tf.stop_gradient(own))


def tile_sizes(n: int, m: int) -> tuple[int, int]:
    """Rows and columns of the tiles of n by m logits: of few rows longer ones, for fewer turns."""
    rows = min(n, TILE)
    return rows, min(m, TILE * TILE // rows)


def split(rows: tf.Tensor, size: int) -> tf.Tensor:
    """[n, ...] to tiles [k, size, ...], the last one filled up with zeros."""
    missing = -rows.shape[0] % size
    if missing:
        rows = tf.pad(rows, [[0, missing]] + [[0, 0]] * (rows.shape.rank - 1))
    return tf.reshape(rows, [-1, size, *rows.shape[1:]])


def join(tiles: tf.Tensor, count: int) -> tf.Tensor:
    """The inverse of ``split``: tiles [k, size, ...] to [count, ...]."""
    return tf.reshape(tiles, [-1, *tiles.shape[2:]])[:count]


def put(tiles: tf.Tensor, index: tf.Tensor, tile: tf.Tensor) -> tf.Tensor:
    """Adds one tile to ``tiles[index]``: in place inside a loop, and one slice under XLA."""
    return tf.tensor_scatter_nd_add(tiles, [[index]], tile[None])


def lowest(dtype: tf.DType) -> tf.Tensor:
    """A logit that counts for nothing, from which a shift can still be subtracted."""
    return tf.constant(dtype.min / 2, dtype)


def hide_padding(logits: tf.Tensor, column: tf.Tensor, count: int) -> tf.Tensor:
    """Puts ``lowest`` where tile number ``column`` goes beyond ``count`` columns."""
    size = logits.shape[1]
    if count % size == 0:
        return logits
    real = tf.range(size) < count % size
    last = tf.equal(column, count // size)
    return tf.cond(last, lambda: tf.where(real[None], logits, lowest(logits.dtype)), lambda: logits)


# Logits of tile (row, column) and the two numbers, to the masked logits and the rows' own ones.
_Mask = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def _masker(exclusion: Exclusion, n: int, m: int, row_size: int, column_size: int) -> _Mask:
    """A function that applies the exclusion, and looks for a row's own column on the way."""
    own_tiles = row_classes = column_classes = None
    if exclusion.own is not None:
        own_tiles = split(tf.ensure_shape(exclusion.own, [n]), row_size)
    if exclusion.row_classes is not None:
        row_classes = split(tf.ensure_shape(exclusion.row_classes, [n]), row_size)
        column_classes = split(tf.ensure_shape(exclusion.column_classes, [m]), column_size)

    def mask(logits: tf.Tensor, i: tf.Tensor, j: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        none = tf.zeros(logits.shape[:1], logits.dtype)
        nothing = lowest(logits.dtype)
        found = none
        if own_tiles is not None:
            own = own_tiles[i] - j * column_size
            inside = tf.reduce_any((own >= 0) & (own < column_size))

            def leave_out() -> tuple[tf.Tensor, tf.Tensor]:
                is_own = own[:, None] == tf.range(column_size)
                mine = tf.reduce_sum(tf.where(is_own, logits, tf.zeros_like(logits)), axis=1)
                return tf.where(is_own, nothing, logits), mine

            masked, found = tf.cond(inside, leave_out, lambda: (logits, none))
        else:
            masked = logits
        if row_classes is not None and column_classes is not None:
            same = row_classes[i][:, None] == column_classes[j]
            keep = same if exclusion.same_class else ~same
            masked = tf.where(keep, masked, nothing)
        return hide_padding(masked, j, m), found

    return mask


def _forward(
    rows: tf.Tensor, columns: tf.Tensor, mask: _Mask
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Log-sum-exp, best and own logit of each row, [k, size] each."""
    dtype, count = rows.dtype, columns.shape[0]
    nothing, empty = lowest(dtype), tf.zeros(rows.shape[:2], dtype)

    def next_row(i: tf.Tensor, *results: tf.Tensor) -> tuple[tf.Tensor, ...]:
        queries = rows[i]
        zeros = tf.zeros(rows.shape[1:2], dtype)

        def next_column(
            j: tf.Tensor, best: tf.Tensor, total: tf.Tensor, own: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            logits, found = mask(tf.matmul(queries, columns[j], transpose_b=True), i, j)
            higher = tf.maximum(best, tf.reduce_max(logits, axis=1))
            terms = tf.reduce_sum(tf.exp(logits - higher[:, None]), axis=1)
            return j + 1, higher, total * tf.exp(best - higher) + terms, own + found

        _, best, total, own = loop(count, next_column, (0, zeros + nothing, zeros, zeros))
        # A row that keeps no column has summed exp(0) of the columns it does not have.
        log_sum_exp = tf.where(best > nothing, best + tf.math.log(total), zeros)
        new = (log_sum_exp, best, own)
        return i + 1, *(put(r, i, x) for r, x in zip(results, new, strict=True))

    return loop(rows.shape[0], next_row, (0, empty, empty, empty))[1:]


def _backward(
    rows: tf.Tensor,
    columns: tf.Tensor,
    mask: _Mask,
    log_sum_exp: tf.Tensor,
    upstream: tf.Tensor,
    *,
    learners: tuple[bool, bool],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of the row tiles and of the column tiles; zeros for those that do not learn."""
    count = columns.shape[0]

    def next_row(
        i: tf.Tensor, d_rows: tf.Tensor, d_columns: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        queries, shift, weight = rows[i], log_sum_exp[i][:, None], upstream[i][:, None]
        weighted = queries * weight  # here and below, and not on the larger tile

        def next_column(
            j: tf.Tensor, d_queries: tf.Tensor, d_columns: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            keys = columns[j]
            logits, _ = mask(tf.matmul(queries, keys, transpose_b=True), i, j)
            shares = tf.exp(logits - shift)
            if learners[0]:
                d_queries += tf.matmul(shares, keys)
            if learners[1]:
                d_columns = put(d_columns, j, tf.matmul(shares, weighted, transpose_a=True))
            return j + 1, d_queries, d_columns

        start = (0, tf.zeros_like(queries), d_columns)
        _, d_queries, d_columns = loop(count, next_column, start)
        return i + 1, put(d_rows, i, d_queries * weight), d_columns

    start = (0, tf.zeros_like(rows), tf.zeros_like(columns))
    return loop(rows.shape[0], next_row, start)[1:]


def loop(count: int, body: Callable[..., Any], start: tuple[Any, ...]) -> Any:
    """Calls ``body`` while its first value is below ``count``, one turn at a time."""
    return tf.while_loop(
        lambda i, *_: i < count, body, start, parallel_iterations=1, maximum_iterations=count
    )
