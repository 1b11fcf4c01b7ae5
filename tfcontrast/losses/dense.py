"""DenseCL: contrast locations of the feature map instead of whole images.

Wang, Zhang, Shen, Kong, Li: Dense Contrastive Learning for Self-Supervised Visual Pre-Training
(2020, arXiv:2011.09157). Each location of the query's map finds the key's location that shows the
same thing by *backbone* features; the pair's *projections* are then a row of ``info_nce``.
"""

import tensorflow as tf

from tfcontrast.losses.arguments import float_tensor
from tfcontrast.losses.stored_rows import row_numbers
from tfcontrast.losses.unit_rows import unit_rows


def match_locations(query_map: tf.Tensor, key_map: tf.Tensor) -> tf.Tensor:
    """For every location of the query, the most similar location of its key.

        a(u) = argmax_v cos(F_q[u], F_k[v])

    Args:
        query_map: [b, P, c] backbone features of the query images, locations in one axis.
        key_map: [b, Q, c] backbone features of the key images.

    Returns:
        int32 [b, P], numbers in [0, Q), without gradient; the lowest one of several equals.

    Raises:
        ValueError: not floating-point maps, or shapes that do not fit together.

    Example:
        >>> grid = tf.eye(3)[None]
        >>> match_locations(grid, tf.reverse(grid, [1])).numpy().tolist()
        [[2, 1, 0]]
    """
    query_map = tf.stop_gradient(float_tensor(query_map, "query_map", rank=3))
    key_map = tf.stop_gradient(float_tensor(key_map, "key_map", rank=3))
    _check_maps(query_map, key_map, "query_map and key_map")
    cosines = tf.matmul(unit_rows(query_map), unit_rows(key_map), transpose_b=True)  # [b, P, Q]
    return tf.argmax(cosines, axis=2, output_type=tf.int32)


def dense_rows(
    query_grid: tf.Tensor, key_grid: tf.Tensor, matches: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The queries and keys of ``info_nce``, one row per image and location.

        loss = info_nce(*dense_rows(g_q, g_k, match_locations(F_q, F_k)), queue, temperature=0.2)

    Args:
        query_grid: [b, P, d] dense projections of the query images. float64 stays, everything else
            becomes float32.
        key_grid: [b, Q, d] dense projections of the key images. Without gradient.
        matches: int [b, P], a location of the key for each of the query.

    Returns:
        Queries [b P, d] and keys [b P, d], the locations of one image together. Row (i, u) is
        g_q[i, u] and g_k[i, a(i, u)].

    Raises:
        ValueError: not floating-point grids, or shapes that do not fit together.

    Example:
        >>> grid = tf.constant([[[1.0], [2.0]]])
        >>> queries, keys = dense_rows(grid, 10 * grid, tf.constant([[1, 1]]))
        >>> queries.numpy().tolist(), keys.numpy().tolist()
        ([[1.0], [2.0]], [[20.0], [20.0]])
    """
    query_grid = float_tensor(query_grid, "query_grid", rank=3)
    key_grid = tf.stop_gradient(float_tensor(key_grid, "key_grid", rank=3))
    _check_maps(query_grid, key_grid, "query_grid and key_grid")
    matches = row_numbers(matches, "matches", rank=2, like=query_grid)
    if not matches.shape.is_compatible_with(query_grid.shape[:2]):
        raise ValueError(
            "matches must name one location per location of query_grid."
            f" Received: shapes {matches.shape} and {query_grid.shape}"
        )
    keys = tf.gather(key_grid, matches, axis=1, batch_dims=1)  # [b, P, d]
    width = tf.shape(query_grid)[2] if query_grid.shape[2] is None else query_grid.shape[2]
    return tf.reshape(query_grid, [-1, width]), tf.reshape(keys, [-1, width])


def _check_maps(first: tf.Tensor, second: tf.Tensor, names: str) -> None:
    """Refuses maps of unequal batches or widths; the numbers of locations may differ."""
    if not (
        first.shape[:1].is_compatible_with(second.shape[:1])
        and first.shape[2:].is_compatible_with(second.shape[2:])
    ):
        raise ValueError(
            f"{names} must agree in batch and channels."
            f" Received: shapes {first.shape} and {second.shape}"
        )
