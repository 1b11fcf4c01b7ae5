import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfcontrast.augment import random as rng

ONES = (0xFFFFFFFF, 0xFFFFFFFF)
MODES = {
    "eager": lambda f: f,
    "graph": tf.function,
    "xla": lambda f: tf.function(f, jit_compile=True),
}


def pair(words):
    return tuple(tf.constant(w, tf.uint32) for w in words)


# Random123's kat_vectors, threefry2x32 with 20 rounds.
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        (ONES, ONES, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_gives_random123s_known_answers(mode, key, counter, expected):
    words = MODES[mode](rng.threefry2x32)(pair(key), pair(counter))
    assert tuple(int(w) for w in words) == expected


def test_the_cipher_is_traced_once_and_its_words_know_their_shape():
    @tf.function(autograph=False)
    def draw(count):
        blocks = tf.cast(tf.range(count), tf.uint32)[None]
        words = rng.threefry2x32((tf.zeros([3, 1], tf.uint32),) * 2, (blocks, blocks))
        assert [word.shape.as_list() for word in words] == [[3, None]] * 2
        return words

    draw(tf.constant(2))
    once = rng._encipher.experimental_get_tracing_count()
    draw(tf.constant(5))
    seeds_of(7)
    rng.normal(seeds_of(4), 3, stream=1)
    assert rng._encipher.experimental_get_tracing_count() == once == 1


def seeds_of(count, seed=0, view=0, start=0):
    return rng.example_seeds(seed, tf.range(start, start + count, dtype=tf.int64), view)


def test_uniform_is_the_ciphers_top_24_bits():
    seeds = seeds_of(5)
    draws = rng.uniform(seeds, 7, stream=9).numpy()
    for row in range(5):
        for column in range(7):
            words = rng.threefry2x32((seeds[row, 0], seeds[row, 1]), pair((column // 2, 9)))
            assert draws[row, column] == (int(words[column % 2]) >> 8) / 2**24


def test_example_seeds_differ_in_every_argument_and_use_all_64_bits():
    far = tf.constant([0, 1, 2**32, 2**32 + 1, 2**62], tf.int64)
    variants = [rng.example_seeds(s, far, v).numpy() for s in (0, 1, 2**32, -1) for v in (0, 1, 2)]
    rows = {tuple(row) for seeds in variants for row in seeds}
    assert len(rows) == 4 * 3 * 5


def test_draws_depend_on_the_own_seed_only_and_prefixes_agree():
    many = rng.uniform(seeds_of(50), 6, stream=1).numpy()
    alone = rng.uniform(seeds_of(1, start=17), 6, stream=1).numpy()
    shorter = rng.uniform(seeds_of(50), 3, stream=1).numpy()
    np.testing.assert_array_equal(many[17:18], alone)
    np.testing.assert_array_equal(many[:, :3], shorter)


@pytest.mark.parametrize("draw", ["uniform", "normal", "permutations"])
def test_same_numbers_eagerly_in_tf_data_and_under_xla(draw):
    def draws(counters):
        return getattr(rng, draw)(rng.example_seeds(3, counters, 1), 5, stream=2)

    counters = tf.range(64, dtype=tf.int64)
    eager = draws(counters).numpy()
    mapped = next(iter(tf.data.Dataset.from_tensors(counters).map(draws))).numpy()
    compiled = tf.function(draws, jit_compile=True)(counters).numpy()
    tolerance = 2e-6 if draw == "normal" else 0  # log and cos differ in the last bits
    np.testing.assert_allclose(mapped, eager, atol=tolerance)
    np.testing.assert_allclose(compiled, eager, atol=tolerance)


def test_uniform_passes_kolmogorov_smirnov_per_column_and_per_row():
    draws = rng.uniform(seeds_of(20000), 3, stream=0).numpy()
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    long_row = rng.uniform(seeds_of(1), 20001, stream=0).numpy()[0]
    assert long_row.shape == (20001,)
    assert stats.kstest(long_row, "uniform").pvalue > 1e-3


def test_columns_streams_views_neighbours_and_seeds_are_uncorrelated():
    n = 20000
    base = rng.uniform(seeds_of(n), 2, stream=0).numpy()
    others = [
        base[:, 1],
        np.roll(base[:, 0], 1),
        rng.uniform(seeds_of(n), 1, stream=1).numpy()[:, 0],
        rng.uniform(seeds_of(n, view=1), 1, stream=0).numpy()[:, 0],
        rng.uniform(seeds_of(n, seed=1), 1, stream=0).numpy()[:, 0],
    ]
    for other in others:
        assert abs(np.corrcoef(base[:, 0], other)[0, 1]) < 4.5 / np.sqrt(n)


@pytest.mark.parametrize(("low", "high"), [(0.1, 2.0), (-0.8, 0.8), (1.0, 1.0), (0.0, 1e-38)])
def test_uniform_stays_inside_its_range(low, high):
    draws = rng.uniform(seeds_of(20000), 1, stream=0, low=low, high=high).numpy()
    assert draws.min() >= np.float32(low)
    assert (draws < np.float32(high)).all() or low == high
    assert draws.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low) + 1e-7)


def test_uniform_never_rounds_up_to_high(monkeypatch):
    top = tf.fill([1, 1], tf.constant(0xFFFFFFFF, tf.uint32))
    monkeypatch.setattr(rng, "random_bits", lambda *_, **__: top)
    assert float(rng.uniform(seeds_of(1), 1, stream=0, low=0.1, high=2.0)[0, 0]) < 2.0


def test_normal_is_normal_and_finite_at_the_edge(monkeypatch):
    draws = rng.normal(seeds_of(10000), 3, stream=0).numpy()
    assert draws.shape == (10000, 3)
    for column in draws.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.045
    for word in (0, 0xFFFFFFFF):
        bits = tf.fill([1, 2], tf.constant(word, tf.uint32))
        monkeypatch.setattr(rng, "random_bits", lambda *_, bits=bits, **__: bits)
        assert np.isfinite(rng.normal(seeds_of(1), 2, stream=0)).all()


def test_permutations_are_uniform_over_all_orders():
    orders = rng.permutations(seeds_of(24000), 4, stream=0).numpy()
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_permutations_break_ties(monkeypatch):
    equal = tf.zeros([1, 5], tf.uint32)
    monkeypatch.setattr(rng, "random_bits", lambda *_, **__: equal)
    assert rng.permutations(seeds_of(1), 5, stream=0).numpy().tolist() == [[0, 1, 2, 3, 4]]


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="Received: low=2, high=1"):
        rng.uniform(seeds_of(1), 1, stream=0, low=2, high=1)
    with pytest.raises(ValueError, match="Received: -1"):
        seeds_of(1, view=-1)
