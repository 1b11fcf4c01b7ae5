"""Where a patch lies: fixed 2-D sines and cosines, and position embeddings for other grids."""

import numpy as np
import tensorflow as tf

_TEMPERATURE = 10_000.0

# PyTorch's bicubic kernel; TensorFlow's and Pillow's have -0.5.
_A = -0.75


def sincos_positions(height: int, width: int, dim: int) -> np.ndarray:
    """Fixed embeddings of a grid's cells (MoCo v3; Vaswani et al., 2017, section 3.5, in 2-D).

    A quarter of the channels each holds the sine of the row, its cosine, the sine of the column,
    its cosine, at the frequencies 10000^(-k / (dim / 4)).

    Returns:
        float32 [height * width, dim], row by row.

    Raises:
        ValueError: dim is not a multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"Sine-cosine positions need a multiple of 4 channels. Received: {dim}")
    frequencies = _TEMPERATURE ** -(np.arange(dim // 4) / (dim // 4))
    rows, columns = np.divmod(np.arange(height * width), width)
    angles = [np.outer(place, frequencies) for place in (rows, columns)]
    parts = [function(angle) for angle in angles for function in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def resize_matrix(source: int, target: int | tf.Tensor) -> tf.Tensor:
    """The matrix that resamples `source` values to `target`: bicubic, as PyTorch interpolates.

    Pixel centres lie at half integers, the kernel is Keys' with a = -0.75, never widened, and the
    ends are repeated. That is how DINO's code and timm adapt position embeddings, so weights that
    come from there behave as they did; DINO's code distorts the scale a little besides, by adding
    0.1 to the number of cells, which is left out. Equal sizes give the identity exactly.

    Returns:
        float32 [target, source], rows with sum 1; no more than a constant where `target` is a
        number.
    """
    scale = source / tf.cast(target, tf.float32)
    centres = (tf.range(tf.cast(target, tf.float32)) + 0.5) * scale - 0.5
    left = tf.floor(centres)
    matrix: tf.Tensor = 0.0
    for tap in range(-1, 3):
        distance = tf.abs(centres - left - tap)
        near = ((_A + 2.0) * distance - (_A + 3.0)) * distance**2 + 1.0
        far = _A * (((distance - 5.0) * distance + 8.0) * distance - 4.0)
        weight = near if tap in (0, 1) else far
        cell = tf.clip_by_value(tf.cast(left, tf.int32) + tap, 0, source - 1)
        matrix += weight[:, None] * tf.one_hot(cell, source)
    return matrix


def resize_positions(
    positions: tf.Tensor, source: tuple[int, int], target: tuple[int | tf.Tensor, int | tf.Tensor]
) -> tf.Tensor:
    """Position embeddings of one grid for another: a product with a small matrix per axis.

    Args:
        positions: [source height * width, D], row by row.
        source: height and width of their grid.
        target: height and width of the wanted grid.

    Returns:
        [target height * width, D] in the dtype of `positions`; the very same when the sizes are
        equal and known.
    """
    if all(isinstance(side, int) for side in target) and source == target:
        return positions
    rows, columns = (
        tf.cast(resize_matrix(old, new), positions.dtype)
        for old, new in zip(source, target, strict=True)
    )
    width = positions.shape[-1]
    grid = tf.matmul(rows, tf.reshape(positions, [source[0], source[1] * width]))
    grid = tf.reshape(grid, [target[0], source[1], width])
    return tf.reshape(tf.einsum("wv,hvd->hwd", columns, grid), [-1, width])
