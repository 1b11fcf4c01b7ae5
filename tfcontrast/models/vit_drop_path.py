"""Which branches of a vision transformer are dropped, as a function of a seed.

``tf.random.stateless_uniform`` gives other floats under XLA than without, so these are made by
integer arithmetic that is the same everywhere: the words of seed, branch and row go through the
finaliser of MurmurHash3 (Appleby, 2011), a bijection in which every bit of the input moves every
bit of the output.
"""

import numpy as np
import tensorflow as tf

_GOLDEN = 0x9E3779B9  # keeps zeros off the finaliser's fixed point


def drop_path_factors(
    seed: tf.Tensor, rows: tf.Tensor, *, rate: float, depth: int, views: int = 1
) -> tf.Tensor:
    """What multiplies the branches: 0, or 1 / (1 - the block's rate) so that the mean is 1.

    Args:
        seed: int32 or uint32 [2].
        rows: int32 [R], the examples' rows in the global batch of a view.
        rate: probability of dropping a branch of the last block; it grows linearly from 0 at the
            first (stochastic depth, Huang et al., 2016).
        depth: number of blocks, with two branches each.
        views: views of every example.

    Returns:
        float32 [depth, 2, views * R], the views one after another. A number depends on the seed and
        its own block, branch, view and row only.
    """
    keep = 1.0 - np.linspace(0.0, rate, depth, dtype=np.float32)[:, None, None]
    draws = tf.reshape(uniform_of(seed, views * depth * 2, rows), [views, depth, 2, tf.size(rows)])
    draws = tf.reshape(tf.transpose(draws, [1, 2, 0, 3]), [depth, 2, -1])
    return tf.where(draws < keep, 1.0 / keep, 0.0)


def uniform_of(seed: tf.Tensor, streams: int, rows: tf.Tensor) -> tf.Tensor:
    """Uniform numbers in [0, 1), one for each stream and row: float32 [streams, R]."""
    first, second = tf.unstack(_words(seed))
    first = mixed(first + _GOLDEN)
    second = mixed(second ^ first)
    keys = mixed(mixed(_words(tf.range(streams)) + first) ^ second)
    bits = mixed(mixed(_words(rows) ^ keys[:, None]) + second)
    top = tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32))
    return tf.cast(tf.bitcast(top, tf.int32), tf.float32) * 2.0**-24


def mixed(words: tf.Tensor) -> tf.Tensor:
    """MurmurHash3's 32-bit finaliser, on uint32."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        words ^= tf.bitwise.right_shift(words, tf.constant(shift, tf.uint32))
        words *= tf.constant(factor, tf.uint32)
    return words ^ tf.bitwise.right_shift(words, tf.constant(16, tf.uint32))


def _words(values: tf.Tensor) -> tf.Tensor:
    values = tf.convert_to_tensor(values)
    return values if values.dtype == tf.uint32 else tf.bitcast(values, tf.uint32)
