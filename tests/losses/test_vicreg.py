import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import vicreg, vicreg_terms

GOLDEN = {"invariance": 0.4195590952, "variance": 0.3014963348, "covariance": 1.4098244866}


def loop_terms(z1, z2):
    variance = covariance = 0.0
    for z in (z1, z2):
        n, d = z.shape
        mean = [sum(z[:, j]) / n for j in range(d)]
        for i in range(d):
            for j in range(d):
                c = sum((z[b, i] - mean[i]) * (z[b, j] - mean[j]) for b in range(n)) / (n - 1)
                if i == j:
                    variance += max(0, 1 - np.sqrt(c + 1e-4)) / d / 2
                else:
                    covariance += c**2 / d
    return {
        "invariance": np.mean((z1 - z2) ** 2),
        "variance": variance,
        "covariance": covariance,
    }


def test_golden_values(golden_views):
    z1, z2, _ = golden_views
    terms = vicreg_terms(z1, z2)
    assert terms.keys() == GOLDEN.keys()
    for name, value in GOLDEN.items():
        assert float(terms[name]) == pytest.approx(value, abs=1e-9)
    assert float(vicreg(z1, z2)) == pytest.approx(19.4362102380, abs=1e-9)
    single = vicreg(z1.astype(np.float32), z2.astype(np.float32))
    assert single.dtype == tf.float32
    assert float(single) == pytest.approx(19.4362102380, rel=1e-6)


@pytest.mark.parametrize(("b", "d", "size"), [(2, 3, 0.1), (6, 4, 0.3), (6, 1, 3.0)])
def test_equals_the_loop(random_views, b, d, size):
    z1, z2 = (size * z for z in random_views(b, d))
    terms, expected = vicreg_terms(z1, z2), loop_terms(z1, z2)
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, abs=1e-10)
    weights = {"invariance_weight": 2.0, "variance_weight": 3.0, "covariance_weight": 5.0}
    total = 2 * expected["invariance"] + 3 * expected["variance"] + 5 * expected["covariance"]
    assert float(vicreg(z1, z2, **weights)) == pytest.approx(total, rel=1e-10)


def test_without_halves_the_variance_term_doubles(random_views):
    z1, z2 = (0.2 * z for z in random_views(5, 3))
    halved, whole = vicreg_terms(z1, z2), vicreg_terms(z1, z2, halves=False)
    assert float(whole["variance"]) == pytest.approx(2 * float(halved["variance"]))
    assert float(whole["variance"]) > 0
    for name in ("invariance", "covariance"):
        assert float(whole[name]) == float(halved[name])


def test_known_values(random_views):
    constant = tf.fill([4, 3], 2.0)
    assert float(vicreg(constant, constant)) == pytest.approx(24.75, abs=1e-5)
    z = np.random.default_rng(0).normal(size=(32, 4))
    q, _ = np.linalg.qr(z - z.mean(axis=0))
    white = q * np.sqrt(31) * 1.01
    assert float(vicreg(white, white)) == pytest.approx(0, abs=1e-10)
    z1, z2 = random_views(6, 4)
    order = np.random.default_rng(3).permutation(6)
    value = float(vicreg(z1, z2))
    assert float(vicreg(z1 + 7, z2 + 7)) == pytest.approx(value)
    assert float(vicreg(z2, z1)) == pytest.approx(value)
    assert float(vicreg(z1[order], z2[order])) == pytest.approx(value)
    assert abs(float(vicreg(10 * z1, 10 * z2)) - value) > 1  # lengths do matter


def test_both_views_learn_through_every_term(random_views, check_gradient):
    z1, z2 = (0.2 * z for z in random_views(5, 3))
    for name in GOLDEN:
        check_gradient(lambda a, b, name=name: vicreg_terms(a, b)[name], z1, z2)
    with tf.GradientTape(persistent=True) as tape:
        rows = [tf.constant(z1), tf.constant(z2)]
        tape.watch(rows)
        terms = vicreg_terms(*rows)
    for value in terms.values():
        assert all(np.abs(g).max() > 1e-3 for g in tape.gradient(value, rows))


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_average_to_the_whole_in_value_and_gradient(random_views, shards):
    rows = [tf.constant(0.3 * z) for z in random_views(8, 5)]
    size = 8 // shards

    def sharded(a, b):
        parts = [
            vicreg(a[r : r + size], b[r : r + size], candidates=(a, b), first_row=r)
            for r in range(0, 8, size)
        ]
        return tf.add_n(parts) / shards

    results = []
    for loss in (vicreg, sharded):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value = loss(*rows)
        results.append([value, *tape.gradient(value, rows)])
    for one, many in zip(*results, strict=True):
        np.testing.assert_allclose(many, one, atol=1e-11)


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
    value, _ = assert_finite(vicreg, z1, z2, jit=case == "zeros")
    if case == "zeros":
        assert value == pytest.approx(24.75, abs=1e-5)
    if case == "one image":
        terms = vicreg_terms(z1, z2)
        assert float(terms["covariance"]) == 0
        assert float(terms["variance"]) == pytest.approx(0.99)


def test_half_precision_is_computed_in_float32(random_views):
    z1, z2 = (z.astype(np.float32) / 3 for z in random_views(8, 6))
    half = vicreg(z1.astype(np.float16), z2.astype(np.float16))
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(float(vicreg(z1, z2)), rel=1e-2)


def test_bad_arguments_are_refused():
    z = tf.ones([2, 3])
    for options in (
        {"variance_weight": -1.0},
        {"first_row": 2},
        {"candidates": (tf.ones([4, 3]), tf.ones([6, 3]))},
        {"candidates": (tf.ones([5, 3]), tf.ones([5, 3]))},
    ):
        with pytest.raises(ValueError, match="Received: "):
            vicreg(z, z, **options)
    with pytest.raises(ValueError, match="Received: "):
        vicreg(z, tf.ones([3, 3]))
