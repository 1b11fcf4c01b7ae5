"""Random numbers as a pure function of (seed, example, view): Threefry-2x32 in TensorFlow ops.

TensorFlow's stateless ops take one seed for a whole tensor, so that an image's draw would depend on
its place in the batch. Here every image has its own key, and a draw is one block of the cipher at a
counter; the same bits come out eagerly, in tf.data, under XLA and on every device. Cipher: Salmon
et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Random123), 20 rounds.
"""

import math

import numpy as np
import tensorflow as tf

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_ROUNDS = 20


def threefry2x32(
    key: tuple[tf.Tensor, tf.Tensor], counter: tuple[tf.Tensor, tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Enciphers counters: Threefry-2x32 with 20 rounds.

    Args:
        key: two uint32 tensors.
        counter: two uint32 tensors that broadcast with the key.

    Returns:
        Two uint32 tensors of the broadcast shape, uniform over all 32-bit words.
    """
    return _encipher(*key, *counter)


# Traced once for all shapes: a block has hundreds of operations, and every view draws several.
@tf.function(input_signature=[tf.TensorSpec(None, tf.uint32)] * 4, autograph=False)
def _encipher(
    key0: tf.Tensor, key1: tf.Tensor, left: tf.Tensor, right: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    keys = (key0, key1, key0 ^ key1 ^ tf.constant(_PARITY, tf.uint32))
    left, right = left + keys[0], right + keys[1]
    for group in range(_ROUNDS // 4):
        for rotation in _ROTATIONS[group % 2]:
            left = left + right
            right = _rotate_left(right, rotation) ^ left
        left = left + keys[(group + 1) % 3]
        right = right + keys[(group + 2) % 3] + tf.constant(group + 1, tf.uint32)
    return left, right


def example_seeds(seed: int, counters: tf.Tensor, view: int) -> tf.Tensor:
    """Keys for one view of each example, from which all its draws follow.

    Args:
        seed: the run's seed; its low 64 bits count.
        counters: [B] int64, the example's number in the stream of examples.
        view: which view of the example, >= 0.

    Returns:
        [B, 2] uint32.
    """
    if view < 0:
        raise ValueError(f"view must not be negative. Received: {view}")
    run = (_word(seed), _word(seed >> 32))
    key = threefry2x32(run, (_word(view), _word(view >> 32)))
    counters = tf.cast(counters, tf.int64)
    low = tf.cast(tf.bitwise.bitwise_and(counters, 0xFFFFFFFF), tf.uint32)
    high = tf.cast(tf.bitwise.right_shift(counters, tf.constant(32, tf.int64)), tf.uint32)
    return tf.stack(threefry2x32(key, (low, high)), axis=-1)


def random_bits(seeds: tf.Tensor, count: int, *, stream: int) -> tf.Tensor:
    """Uniform 32-bit words, [B, count] uint32, of one stream of each seed."""
    blocks = tf.range((count + 1) // 2, dtype=tf.int32)
    counter = (tf.cast(blocks, tf.uint32)[None], _word(stream))
    words = threefry2x32((seeds[:, :1], seeds[:, 1:]), counter)
    return tf.reshape(tf.stack(words, axis=-1), [tf.shape(seeds)[0], -1])[:, :count]


def uniform(
    seeds: tf.Tensor, count: int, *, stream: int, low: float = 0.0, high: float = 1.0
) -> tf.Tensor:
    """Uniform numbers in [low, high) with a resolution of 2^-24 of the range.

    Args:
        seeds: [B, 2] uint32 from `example_seeds`.
        count: draws per seed; a longer draw starts with the numbers of a shorter one.
        stream: separates independent draws from the same seeds.
        low: smallest value.
        high: the bound that is never reached, unless it equals `low`.

    Returns:
        [B, count] float32.
    """
    if high < low:
        raise ValueError(f"high must not be below low. Received: low={low}, high={high}")
    unit = _unit(random_bits(seeds, count, stream=stream))
    if (low, high) == (0.0, 1.0):
        return unit
    below_high = np.nextafter(np.float32(high), np.float32(-np.inf))
    return tf.minimum(low + (high - low) * unit, max(below_high, np.float32(low)))


def normal(seeds: tf.Tensor, count: int, *, stream: int) -> tf.Tensor:
    """Standard normal numbers, [B, count] float32, by the Box-Muller transform (1958)."""
    bits = random_bits(seeds, 2 * ((count + 1) // 2), stream=stream)
    pairs = tf.reshape(_unit(bits), [tf.shape(seeds)[0], -1, 2])
    radius = tf.sqrt(-2.0 * tf.math.log(1.0 - pairs[..., 0]))  # 1 - u is never 0
    angle = (2.0 * math.pi) * pairs[..., 1]
    both = tf.stack([radius * tf.cos(angle), radius * tf.sin(angle)], axis=-1)
    return tf.reshape(both, [tf.shape(seeds)[0], -1])[:, :count]


def permutations(seeds: tf.Tensor, n: int, *, stream: int) -> tf.Tensor:
    """One random order of 0..n-1 per seed: [B, n] int32.

    Ranks by comparing all pairs: meant for small n, where it is cheaper than a sort and the same on
    every device.
    """
    bits = random_bits(seeds, n, stream=stream)
    places = np.arange(n)
    earlier = tf.constant(places[None, :] < places[:, None])
    mine, other = bits[:, :, None], bits[:, None, :]
    before = (other < mine) | ((other == mine) & earlier)
    return tf.reduce_sum(tf.cast(before, tf.int32), axis=-1)


def _unit(bits: tf.Tensor) -> tf.Tensor:
    """Uint32 words to float32 in [0, 1): the top 24 bits, exactly."""
    top = tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32))
    return tf.cast(tf.bitcast(top, tf.int32), tf.float32) * 2.0**-24


def _rotate_left(word: tf.Tensor, bits: int) -> tf.Tensor:
    left = tf.bitwise.left_shift(word, tf.constant(bits, tf.uint32))
    return left | tf.bitwise.right_shift(word, tf.constant(32 - bits, tf.uint32))


def _word(value: int) -> tf.Tensor:
    return tf.constant(value & 0xFFFFFFFF, tf.uint32)
