"""Drop path's numbers: the hash, their law, what they depend on."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models.vit_drop_path import drop_path_factors, mixed, uniform_of

SEED = tf.constant([3, 5], tf.int32)


def test_the_finaliser_is_murmur_hashs():
    # MurmurHash3_x86_32 of the empty string is the finaliser of its seed: the known test vectors
    words = mixed(tf.constant([0, 1, 0xFFFFFFFF], tf.uint32))
    np.testing.assert_array_equal(words, np.uint32([0, 0x514E28B7, 0x81F16F39]))


def test_the_numbers_are_uniform_and_independent():
    draws = uniform_of(SEED, 24, tf.range(4000)).numpy()
    assert draws.dtype == np.float32
    assert 0 <= draws.min() < 1e-3
    assert 1 - 1e-3 < draws.max() < 1
    share, _ = np.histogram(draws, 16, (0, 1))
    expected = draws.size / 16
    assert (((share - expected) ** 2) / expected).sum() < 45  # chi square, 15 degrees, p = 8e-5
    other_seeds = [
        uniform_of(tf.constant(s, tf.int32), 4, tf.range(4000)) for s in ([3, 6], [4, 5])
    ]
    together = np.concatenate([draws, *other_seeds, np.roll(draws[:1], 1, 1)])
    correlation = np.corrcoef(together) - np.eye(len(together))
    assert np.abs(correlation).max() < 4.7 / np.sqrt(4000)


def test_seed_zero_and_negative_seeds_are_seeds_as_others():
    seeds = ([0, 0], [0, 1], [1, 0], [-1, 0], [-1, -1])
    draws = [uniform_of(tf.constant(seed, tf.int32), 2, tf.range(2000)).numpy() for seed in seeds]
    for one in draws:
        assert one.mean() == pytest.approx(0.5, abs=0.025)
    assert len(np.unique(np.stack(draws))) > 19_900
    same = uniform_of(tf.constant([2**32 - 1, 0], tf.uint32), 2, tf.range(2000))
    np.testing.assert_array_equal(same, draws[3])


def test_the_rate_grows_linearly_and_the_mean_is_one():
    factors = drop_path_factors(SEED, tf.range(20_000), rate=0.4, depth=5).numpy()
    assert factors.shape == (5, 2, 20_000)
    for block, rate in enumerate([0, 0.1, 0.2, 0.3, 0.4]):
        for branch in factors[block]:
            np.testing.assert_allclose(branch[branch != 0], 1 / (1 - rate), rtol=1e-6)
            assert (branch == 0).mean() == pytest.approx(rate, abs=0.015)
            assert branch.mean() == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(factors[0], 1)


def test_a_number_depends_on_its_own_row_and_view_only():
    whole = drop_path_factors(SEED, tf.range(64), rate=0.5, depth=3, views=2).numpy()
    part = drop_path_factors(SEED, tf.range(16, 32), rate=0.5, depth=3, views=2).numpy()
    np.testing.assert_array_equal(part, np.concatenate([whole[..., 16:32], whole[..., 80:96]], -1))
    one = drop_path_factors(SEED, tf.range(64), rate=0.5, depth=3).numpy()
    np.testing.assert_array_equal(one, whole[..., :64])
    assert (whole[-1, :, :64] != whole[-1, :, 64:]).mean() > 0.3


def test_xla_draws_the_same():
    def draw(seed):
        return drop_path_factors(seed, tf.range(50), rate=0.5, depth=4, views=2)

    np.testing.assert_array_equal(tf.function(draw, jit_compile=True)(SEED), draw(SEED))
