import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import barlow_twins, barlow_twins_terms


def loop_barlow(z1, z2, weight, eps=1e-5):
    n, d = z1.shape
    n1, n2 = ((z - z.mean(axis=0)) / np.sqrt(z.var(axis=0) + eps) for z in (z1, z2))
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = sum(n1[b, i] * n2[b, j] for b in range(n)) / n
            total += (c - 1) ** 2 if i == j else weight * c**2
    return total


def white(n, d):
    """Rows whose channels have mean 0, variance 1 and no correlation."""
    z = np.random.default_rng(0).normal(size=(n, d))
    q, _ = np.linalg.qr(z - z.mean(axis=0))
    return q * np.sqrt(n)


def test_golden_value(golden_views):
    z1, z2, _ = golden_views
    assert float(barlow_twins(z1, z2)) == pytest.approx(1.2106349695, abs=1e-9)
    single = barlow_twins(z1.astype(np.float32), z2.astype(np.float32))
    assert single.dtype == tf.float32
    assert float(single) == pytest.approx(1.2106349695, abs=1e-6)


@pytest.mark.parametrize(("b", "d"), [(2, 3), (6, 4)])
@pytest.mark.parametrize("weight", [0.0, 0.0051, 1.0])
def test_equals_the_loop(random_views, b, d, weight):
    z1, z2 = random_views(b, d)
    value = float(barlow_twins(z1, z2, off_diagonal_weight=weight))
    assert value == pytest.approx(loop_barlow(z1, z2, weight), rel=1e-10)
    scaled = float(barlow_twins(z1, z2, off_diagonal_weight=weight, scale=0.1))
    assert scaled == pytest.approx(0.1 * value)


def test_known_values():
    z = white(32, 4)
    assert float(barlow_twins(z, z)) == pytest.approx(0, abs=1e-8)
    flipped = z * [1, 1, -1, 1]
    assert float(barlow_twins(z, flipped)) == pytest.approx(4, abs=1e-3)
    z1, z2 = np.random.default_rng(0).normal(size=(2, 256, 64))
    assert float(barlow_twins(z1, z1)) == pytest.approx(0.0051 * 64 * 63 / 256, rel=0.1)
    independent = 64 * (1 + 1 / 256) + 0.0051 * 64 * 63 / 256
    assert float(barlow_twins(z1, z2)) == pytest.approx(independent, rel=0.05)


@pytest.mark.parametrize(("b", "d"), [(2, 3), (6, 4)])
def test_the_two_terms_are_the_loops_without_and_with_weight(random_views, b, d):
    z1, z2 = random_views(b, d)
    terms = barlow_twins_terms(z1, z2)
    assert list(terms) == ["on_diagonal", "off_diagonal"]
    on = loop_barlow(z1, z2, 0.0)
    assert float(terms["on_diagonal"]) == pytest.approx(on, rel=1e-10)
    off = loop_barlow(z1, z2, 1.0) - on
    assert float(terms["off_diagonal"]) == pytest.approx(off, rel=1e-10)


def test_what_does_not_matter(random_views):
    z1, z2 = random_views(8, 5)
    value = float(barlow_twins(z1, z2))
    order = np.random.default_rng(3).permutation(8)
    assert float(barlow_twins(z2, z1)) == pytest.approx(value)
    assert float(barlow_twins(z1[order], z2[order])) == pytest.approx(value)
    assert float(barlow_twins(10 * z1 + 3, z2)) == pytest.approx(value, rel=1e-4)
    assert abs(float(barlow_twins(z1[order], z2)) - value) > 1e-2


def test_both_views_learn(random_views, check_gradient):
    z1, z2 = random_views(5, 3)
    check_gradient(lambda a, b: barlow_twins(a, b, off_diagonal_weight=0.3), z1, z2)
    with tf.GradientTape() as tape:
        rows = [tf.constant(z1), tf.constant(z2)]
        tape.watch(rows)
        value = barlow_twins(*rows)
    assert all(np.abs(g).max() > 1e-3 for g in tape.gradient(value, rows))


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_average_to_the_whole_in_value_and_gradient(random_views, shards):
    rows = [tf.constant(z) for z in random_views(8, 5)]  # 5 channels: shares of unequal size
    size = 8 // shards

    def sharded(a, b):
        parts = [
            barlow_twins(a[r : r + size], b[r : r + size], candidates=(a, b), first_row=r)
            for r in range(0, 8, size)
        ]
        return tf.add_n(parts) / shards

    results = []
    for loss in (barlow_twins, sharded):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value = loss(*rows)
        results.append([value, *tape.gradient(value, rows)])
    for one, many in zip(*results, strict=True):
        np.testing.assert_allclose(many, one, atol=1e-12)


@pytest.mark.parametrize("case", ["one image", "zeros", "one constant channel", "equal", "far"])
def test_finite_at_the_edges(random_views, assert_finite, case):
    z1, z2 = random_views(1 if case == "one image" else 6, 4)
    if case == "zeros":
        z1, z2 = z1 * 0, z2 * 0
    if case == "one constant channel":
        z1[:, 1] = 2
    if case == "equal":
        z2 = z1
    if case == "far":
        z1 = z1 + 1e4
    value, gradients = assert_finite(barlow_twins, z1, z2, jit=case == "zeros")
    if case in ("one image", "zeros"):
        assert value == 4
        assert all((g == 0).all() for g in gradients)


def test_compiled_and_half_precision(random_views):
    z1, z2 = (tf.constant(z, tf.float32) for z in random_views(8, 6))
    value = float(barlow_twins(z1, z2))
    compiled = tf.function(barlow_twins, jit_compile=True)(z1, z2)
    assert float(compiled) == pytest.approx(value, rel=1e-5)
    half = barlow_twins(tf.cast(z1, tf.float16), tf.cast(z2, tf.float16))
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(value, abs=1e-2)


def test_bad_arguments_are_refused():
    z = tf.ones([2, 3])
    for options in (
        {"off_diagonal_weight": -1.0},
        {"first_row": 2},
        {"candidates": (tf.ones([4, 3]), tf.ones([6, 3]))},
        {"candidates": (tf.ones([5, 3]), tf.ones([5, 3]))},
    ):
        with pytest.raises(ValueError, match="Received: "):
            barlow_twins(z, z, **options)
    with pytest.raises(ValueError, match="Received: "):
        barlow_twins(z, tf.ones([3, 3]))
