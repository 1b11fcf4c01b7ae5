import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import nt_logistic


def loop_nt_logistic(z1, z2, t, mining="none", margin=0.5, negatives="mean"):
    z = [v / np.linalg.norm(v) for v in np.concatenate([z1, z2])]
    n, losses = len(z1), []

    def minus_log_sigmoid(x):
        return np.log(1 + np.exp(-x))

    for i in range(2 * n):
        p = (i + n) % (2 * n)
        positive = z[i] @ z[p]
        others = [z[i] @ z[k] for k in range(2 * n) if k not in (i, p)]
        if mining == "semi_hard":
            others = [s for s in others if positive - margin < s < positive]
            others = [max(others)] if others else []
        terms = [minus_log_sigmoid(-s / t) for s in others] or [0.0]
        reduce = np.sum if negatives == "sum" else np.mean
        losses.append(minus_log_sigmoid(positive / t) + reduce(terms))
    return np.mean(losses)


def test_golden_value(golden_views):
    z1, z2, _ = golden_views
    assert float(nt_logistic(z1, z2, temperature=0.5)) == pytest.approx(1.0314649626, abs=1e-9)
    single = nt_logistic(z1.astype(np.float32), z2.astype(np.float32), temperature=0.5)
    assert float(single) == pytest.approx(1.0314649626, abs=1e-6)


@pytest.mark.parametrize("b", [1, 2, 6])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"negatives": "sum"},
        {"mining": "semi_hard", "margin": 0.3},
        {"mining": "semi_hard", "margin": 0.8, "negatives": "sum"},
    ],
)
def test_equals_the_loop(random_views, b, temperature, options):
    z1, z2 = random_views(b, 4)
    value = float(nt_logistic(z1, z2, temperature=temperature, **options))
    assert value == pytest.approx(loop_nt_logistic(z1, z2, temperature, **options), abs=1e-10)


def test_without_any_similarity_both_terms_are_log_two():
    assert float(nt_logistic(tf.zeros([4, 3]), tf.zeros([4, 3]))) == pytest.approx(2 * np.log(2))


def test_gradient_on_a_positive_pair_is_the_papers():
    # d l / d cos of a lone pair = -sigmoid(-s/t)/t per anchor; both anchors share the pair
    cosine = tf.constant(0.3, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(cosine)
        z2 = tf.stack([cosine, tf.sqrt(1 - cosine**2)])[None]
        value = nt_logistic(tf.constant([[1.0, 0.0]], tf.float64), z2, temperature=0.2)
    expected = -1 / (1 + np.exp(0.3 / 0.2)) / 0.2
    assert float(tape.gradient(value, cosine)) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("mining", ["none", "semi_hard"])
def test_gradient_is_that_of_finite_differences(random_views, check_gradient, mining):
    check_gradient(
        lambda a, b: nt_logistic(a, b, temperature=0.4, mining=mining), *random_views(5, 4)
    )


@pytest.mark.parametrize("mining", ["none", "semi_hard"])
@pytest.mark.parametrize("shards", [2, 4])
def test_shards_average_to_the_whole(random_views, mining, shards):
    z1, z2 = random_views(8, 5)
    size = 8 // shards
    parts = [
        nt_logistic(
            z1[k : k + size], z2[k : k + size], mining=mining, candidates=(z1, z2), first_row=k
        )
        for k in range(0, 8, size)
    ]
    assert np.mean(parts) == pytest.approx(float(nt_logistic(z1, z2, mining=mining)), abs=1e-12)


@pytest.mark.parametrize("mining", ["none", "semi_hard"])
def test_compiled_and_half_precision_agree(random_views, mining):
    z1, z2 = (tf.constant(z, tf.float32) for z in random_views(8, 16))
    value = float(nt_logistic(z1, z2, temperature=0.5, mining=mining))
    compiled = tf.function(
        lambda a, b: nt_logistic(a, b, temperature=0.5, mining=mining), jit_compile=True
    )
    assert float(compiled(z1, z2)) == pytest.approx(value, rel=1e-5)
    half = nt_logistic(
        tf.cast(z1, tf.bfloat16), tf.cast(z2, tf.bfloat16), temperature=0.5, mining=mining
    )
    assert float(half) == pytest.approx(value, abs=2e-2)


@pytest.mark.parametrize("mining", ["none", "semi_hard"])
@pytest.mark.parametrize("case", ["one image", "zeros", "duplicates"])
def test_finite_at_the_edges(random_views, assert_finite, mining, case):
    z1, z2 = random_views(1 if case == "one image" else 4, 6)
    if case == "zeros":
        z1, z2 = z1 * 0, z2 * 0
    if case == "duplicates":
        z1[1], z2[1] = z1[0], z2[0]
    for temperature in (1e-3, 0.1):
        assert_finite(
            lambda a, b, t=temperature: nt_logistic(a, b, temperature=t, mining=mining), z1, z2
        )


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"margin": 0}, {"mining": "hard"}, {"negatives": "max"}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        nt_logistic(tf.ones([2, 3]), tf.ones([2, 3]), **options)
