import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import estimate_log_normalizer, full_softmax, nce, sampled_softmax


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


BANK = unit(np.sin(0.3 + 0.5 * np.arange(5)[:, None] + 1.7 * np.arange(6)))
OWN = np.arange(4)
NOISE = np.tile([4, 3, 2], (4, 1))


def loop_nce(v, bank, own, noise, t, z, eps=1e-7):
    n, m, losses = len(bank), noise.shape[1], []
    for i, feature in enumerate(unit(v)):

        def p(j, feature=feature):
            return np.exp(feature @ bank[j] / t) / z

        loss = -np.log(p(own[i]) / (p(own[i]) + m / n + eps))
        for j in noise[i]:
            loss -= np.log(m / n / (p(j) + m / n + eps))
        losses.append(loss)
    return np.mean(losses)


@pytest.fixture
def case():
    """A function (b, n, d, m) -> features, bank (not unit), own rows, noise rows."""

    def make(b, n, d, m, seed=0):
        rng = np.random.default_rng(seed)
        bank = rng.uniform(-1, 1, size=(n, d)) * np.sqrt(3 / d)
        return rng.normal(size=(b, d)), bank, rng.integers(n, size=b), rng.integers(n, size=(b, m))

    return make


def test_golden_values(golden_views):
    a = golden_views[0]
    log_z = estimate_log_normalizer(a, BANK, OWN, NOISE, temperature=0.1)
    assert float(tf.exp(log_z)) == pytest.approx(14643.8023760, abs=1e-6)
    value = nce(a, BANK, OWN, NOISE, temperature=0.1, log_normalizer=log_z)
    # the table's value has no 1e-7 in its denominators, which moves it by 5e-7
    assert float(value) == pytest.approx(2.5981250403, abs=1e-6)
    exact = loop_nce(a, BANK, OWN, NOISE, 0.1, 14643.8023760, eps=0)
    assert exact == pytest.approx(2.5981250403, abs=1e-9)
    assert float(value) == pytest.approx(
        loop_nce(a, BANK, OWN, NOISE, 0.1, np.exp(log_z)), abs=1e-9
    )
    value = full_softmax(a, BANK, OWN, temperature=0.1)
    assert float(value) == pytest.approx(1.5319710301, abs=1e-9)


def test_golden_values_in_single_precision(golden_views):
    a, bank = golden_views[0].astype(np.float32), BANK.astype(np.float32)
    log_z = estimate_log_normalizer(a, bank, OWN, NOISE, temperature=0.1)
    value = nce(a, bank, OWN, NOISE, temperature=0.1, log_normalizer=log_z)
    assert value.dtype == tf.float32
    assert float(value) == pytest.approx(2.5981250403, rel=1e-6)
    softmax = full_softmax(a, bank, OWN, temperature=0.1)
    assert float(softmax) == pytest.approx(1.5319710301, abs=1e-6)


# 5 rows: all scores first, then the drawn ones; 200 rows of 2 numbers: the drawn rows first
@pytest.mark.parametrize(("n", "d"), [(5, 6), (200, 2)])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nce_equals_the_loop(case, n, d, temperature):
    v, bank, own, noise = case(3, n, d, 4)
    value = nce(v, bank, own, noise, temperature=temperature, log_normalizer=np.log(50.0))
    expected = loop_nce(v, bank, own, noise, temperature, 50.0)
    assert float(value) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(5, 6), (200, 2)])
def test_softmaxes_equal_the_loop(case, n, d):
    v, bank, own, noise = case(3, n, d, 4)
    scores = unit(v) @ bank.T / 0.2
    full, sampled = [], []
    for i in range(3):
        full.append(np.log(np.sum(np.exp(scores[i]))) - scores[i, own[i]])
        drawn = [scores[i, j] for j in (own[i], *noise[i])]
        sampled.append(np.log(np.sum(np.exp(drawn))) - drawn[0])
    value = full_softmax(v, bank, own, temperature=0.2)
    assert float(value) == pytest.approx(np.mean(full), abs=1e-10)
    value = sampled_softmax(v, bank, own, noise, temperature=0.2)
    assert float(value) == pytest.approx(np.mean(sampled), abs=1e-10)


def test_normalizer_equals_the_loop(case):
    v, bank, own, noise = case(3, 40, 2, 4)
    terms = [np.exp(unit(v)[i] @ bank[j] / 0.2) for i in range(3) for j in (own[i], *noise[i])]
    value = estimate_log_normalizer(v, bank, own, noise, temperature=0.2)
    assert float(value) == pytest.approx(np.log(40 * np.mean(terms)), abs=1e-10)


@pytest.mark.parametrize(("m", "value"), [(4096, 9.318), (16384, 10.704)])
def test_nce_of_constant_scores(m, value):
    v, bank = tf.zeros([2, 3]), tf.zeros([9, 3])
    noise = tf.ones([2, m], tf.int32)
    options = {"temperature": 0.07}
    log_z = estimate_log_normalizer(v, bank, [0, 1], noise, **options)
    loss = float(nce(v, bank, [0, 1], noise, log_normalizer=log_z, **options))
    assert loss == pytest.approx(value, abs=2e-3)


def test_softmax_at_the_start():
    rng = np.random.default_rng(0)
    bank, v = unit(rng.normal(size=(4000, 128))), rng.normal(size=(500, 128))
    value = float(full_softmax(v, bank, np.arange(500), temperature=0.1))
    assert value == pytest.approx(np.log(4000) + 0.39, abs=0.06)


def test_the_proximal_term_is_the_squared_move(case):
    v, bank, own, noise = case(3, 20, 4, 2)
    options = {"temperature": 0.3, "log_normalizer": 3.0}
    moved = np.mean(np.sum((unit(v) - bank[own]) ** 2, axis=1))
    with_term = float(nce(v, bank, own, noise, proximal_weight=30.0, **options))
    without = float(nce(v, bank, own, noise, **options))
    assert with_term - without == pytest.approx(30 * moved, rel=1e-10)


def test_only_features_learn(case, check_gradient):
    v, bank, own, noise = case(3, 6, 4, 2)
    losses = [
        lambda f, b: nce(
            f, b, own, noise, temperature=0.3, log_normalizer=3.0, proximal_weight=2.0
        ),
        lambda f, b: full_softmax(f, b, own, temperature=0.3),
        lambda f, b: sampled_softmax(f, b, own, noise, temperature=0.3),
    ]
    for loss in losses:
        features, rows = tf.constant(v), tf.constant(bank)
        with tf.GradientTape() as tape:
            tape.watch([features, rows])
            value = loss(features, rows)
        gradients = tape.gradient(value, [features, rows])
        assert np.abs(gradients[0]).max() > 1e-3
        assert gradients[1] is None
        check_gradient(lambda f, loss=loss: loss(f, bank), v)


def test_the_normalizer_is_a_constant(case):
    v, bank, own, noise = case(3, 6, 4, 2)
    features = tf.constant(v)
    with tf.GradientTape() as tape:
        tape.watch(features)
        value = estimate_log_normalizer(features, bank, own, noise, temperature=0.3)
    assert tape.gradient(value, features) is None


def test_order_and_length_do_not_matter(case):
    v, bank, own, noise = case(5, 9, 4, 3)
    options = {"temperature": 0.2, "log_normalizer": 4.0}
    value = float(nce(v, bank, own, noise, **options))
    order = np.random.default_rng(3).permutation(5)
    assert float(nce(v[order], bank, own[order], noise[order], **options)) == pytest.approx(value)
    assert float(nce(10 * v, bank, own, noise[:, ::-1].copy(), **options)) == pytest.approx(value)
    softmax = float(full_softmax(v, bank, own, temperature=0.2))
    assert float(full_softmax(v[order] * 7, bank, own[order], temperature=0.2)) == pytest.approx(
        softmax
    )


@pytest.mark.parametrize("temperature", [1e-3, 0.1])
@pytest.mark.parametrize("edge", ["one image", "zeros", "one zero", "remembered"])
def test_finite_at_the_edges(case, assert_finite, edge, temperature):
    v, bank, own, noise = case(1 if edge == "one image" else 3, 6, 4, 2)
    if edge == "zeros":
        v, bank = v * 0, bank * 0
    if edge == "one zero":
        v[1] = 0
    if edge == "remembered":
        v = bank[own]
    bank = bank.astype(np.float32)
    options = {"temperature": temperature}
    rows = v.astype(np.float32)
    log_z = estimate_log_normalizer(rows, bank, own, noise, **options)
    assert np.isfinite(float(log_z))
    for loss in (
        lambda f: nce(
            f, bank, own, noise, log_normalizer=log_z, proximal_weight=1.0, temperature=temperature
        ),
        lambda f: full_softmax(f, bank, own, temperature=temperature),
        lambda f: sampled_softmax(f, bank, own, noise, temperature=temperature),
    ):
        _, (gradient,) = assert_finite(loss, v, jit=temperature < 0.01 and edge == "one zero")
        if edge == "one zero":
            assert (gradient[1] == 0).all()


def test_bad_arguments_are_refused(case):
    v, bank, own, noise = case(3, 6, 4, 2)
    options = {"temperature": 0.1, "log_normalizer": 0.0}
    for arguments in (
        (v, bank[:, :3], own, noise),
        (v, bank, own[:2], noise),
        (v, bank, own * 1.0, noise),
        (v, bank, own, noise[0]),
        (v, bank, own, noise[:2]),
    ):
        with pytest.raises(ValueError, match="Received: "):
            nce(*arguments, **options)
    with pytest.raises(ValueError, match=r"temperature must be above 0. Received: 0"):
        full_softmax(v, bank, own, temperature=0)
    with pytest.raises(ValueError, match=r"proximal_weight must not be negative. Received: -1"):
        nce(v, bank, own, noise, proximal_weight=-1, **options)
