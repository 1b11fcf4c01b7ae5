import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.losses import contrastive_metrics, effective_channels, feature_std, nt_xent


def loop_metrics(z1, z2, t):
    z1 = z1 / np.linalg.norm(z1, axis=1, keepdims=True)
    z2 = z2 / np.linalg.norm(z2, axis=1, keepdims=True)
    hits, entropies = [], []
    for i, row in enumerate(z1):
        logits = np.array([row @ other for other in z2]) / t
        p = np.exp(logits) / np.exp(logits).sum()
        hits.append(np.argmax(p) == i)
        entropies.append(-np.sum(p * np.log(p)))
    return np.mean(hits), np.mean(entropies)


@pytest.mark.parametrize("b", [1, 4, 9])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_the_loop(random_views, b, temperature):
    z1, z2 = random_views(b, 3)
    metrics = contrastive_metrics(z1, z2, temperature=temperature)
    accuracy, entropy = loop_metrics(z1, z2, temperature)
    assert float(metrics["contrastive_accuracy"]) == pytest.approx(accuracy)
    assert float(metrics["contrastive_entropy"]) == pytest.approx(entropy, abs=1e-10)
    bound = np.log(2 * b - 1) - float(nt_xent(z1, z2, temperature=temperature))
    assert float(metrics["mutual_information_bound"]) == pytest.approx(bound, abs=1e-10)


def test_accuracy_ignores_views_of_the_same_kind():
    # the two first views coincide; every first view's best second view is its own
    z1 = tf.constant([[1.0, 0.1], [1.0, -0.1]])
    z2 = tf.constant([[0.0, 1.0], [0.0, -1.0]])
    assert float(contrastive_metrics(z1, z2)["contrastive_accuracy"]) == 1.0


def test_collapse_is_chance_and_carries_no_information():
    z = tf.ones([8, 3])
    metrics = contrastive_metrics(z, z)
    assert float(metrics["contrastive_accuracy"]) == pytest.approx(1 / 8)
    assert float(metrics["contrastive_entropy"]) == pytest.approx(np.log(8), rel=1e-5)
    assert float(metrics["mutual_information_bound"]) == pytest.approx(0, abs=1e-5)


def test_the_bound_of_perfect_orthogonal_views():
    z = tf.eye(6)
    expected = np.log(11) - np.log(1 + 10 * np.exp(-1 / 0.4))
    bound = contrastive_metrics(z, z, temperature=0.4)["mutual_information_bound"]
    assert float(bound) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shards", [2, 4])
def test_shards_average_to_the_whole(random_views, shards):
    z1, z2 = random_views(8, 3)
    size = 8 // shards
    parts = [
        contrastive_metrics(
            z1[k : k + size], z2[k : k + size], candidates=(z1, z2), first_row=tf.constant(k)
        )
        for k in range(0, 8, size)
    ]
    for name, value in contrastive_metrics(z1, z2).items():
        assert np.mean([part[name] for part in parts]) == pytest.approx(float(value), abs=1e-12)


def test_metrics_have_no_gradient_and_compile():
    z = tf.constant(np.random.default_rng(0).normal(size=(4, 3)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        values = [*contrastive_metrics(z, z).values(), feature_std(z)]
    assert all(tape.gradient(value, z) is None for value in values)
    compiled = tf.function(lambda a: contrastive_metrics(a, 2 * a), jit_compile=True)(z)
    for name, value in contrastive_metrics(z, 2 * z).items():
        assert float(compiled[name]) == pytest.approx(float(value), abs=1e-5)


@pytest.mark.parametrize("temperature", [1e-3, 0.1])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_metrics_are_finite_at_the_edges(temperature, value):
    for b in (1, 3):
        z = tf.fill([b, 4], value)
        metrics = contrastive_metrics(z, z, temperature=temperature)
        assert all(np.isfinite(float(metric)) for metric in metrics.values())


def test_feature_std_equals_numpy():
    x = np.random.default_rng(0).normal(size=(50, 7)) * 3 + 1
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert float(feature_std(x)) == pytest.approx(unit.std(axis=0).mean(), abs=1e-12)


def test_feature_std_of_spread_and_collapsed_directions():
    x = np.random.default_rng(0).normal(size=(4096, 64))
    assert float(feature_std(x)) == pytest.approx(1 / 8, rel=0.01)
    line = np.outer(np.arange(1.0, 9), [1.0, 2, 3])
    assert float(feature_std(line)) == pytest.approx(0, abs=1e-7)
    assert float(feature_std(tf.zeros([3, 2]))) == 0


@pytest.mark.parametrize("replicas", [1, 4])
def test_feature_std_counts_the_rows_of_all_replicas(strategy_of, replicas):
    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    strategy, size = strategy_of(replicas), 8 // replicas

    def rows(context):
        start = size * context.replica_id_in_sync_group
        return tf.constant(x[start : start + size])

    local = strategy.experimental_distribute_values_from_function(rows)
    values = tf.function(lambda part: strategy.run(feature_std, args=(part,)))(local)
    for value in strategy.experimental_local_results(values):
        assert float(value) == pytest.approx(float(feature_std(x)), abs=1e-6)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="Received: "):
        contrastive_metrics(tf.ones([2, 3]), tf.ones([2, 3]), temperature=0)
    with pytest.raises(ValueError, match=r"features must .*Received: "):
        feature_std(tf.ones([2, 3, 4]))


@pytest.mark.parametrize(("b", "d"), [(9, 4), (5, 7)])
def test_effective_channels_is_numpys_participation_ratio(random_views, b, d):
    z, _ = random_views(b, d)
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(z, rowvar=False))
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert 1 < expected < min(d, b - 1)
    assert float(effective_channels(z)) == pytest.approx(expected, rel=1e-5)
    # neither place nor size nor sign of a channel matters
    moved = z * np.linspace(-3, 5, d) + np.arange(d)
    assert float(effective_channels(moved)) == pytest.approx(expected, rel=1e-4)


def test_effective_channels_counts_what_does_not_repeat():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(64, 6))
    white, _ = np.linalg.qr(rows - rows.mean(0))
    white *= 8
    assert float(effective_channels(white)) == pytest.approx(6, rel=1e-4)
    copies = np.concatenate([white[:, :2]] * 3, axis=1)
    assert float(effective_channels(copies)) == pytest.approx(2, rel=1e-4)
    # constant channels do not count; feature_std sees neither of the two
    half = np.concatenate([white[:, :3], np.full([64, 3], 2.0)], axis=1)
    assert float(effective_channels(half)) == pytest.approx(3, rel=1e-4)
    assert float(effective_channels(np.full([64, 6], 0.1, np.float32))) < 1e-6
    assert float(effective_channels(np.ones([1, 6], np.float32))) == 0
    independent = rng.normal(size=(40, 60))
    assert float(effective_channels(independent)) == pytest.approx(40 * 60 / 100, rel=0.03)


def test_effective_channels_has_no_gradient_and_needs_matrices():
    z = tf.constant(np.random.default_rng(0).normal(size=(5, 3)))
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = effective_channels(z, candidates=z)
    assert tape.gradient(value, z) is None
    half = effective_channels(tf.cast(z, tf.float16))
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(float(value), rel=1e-2)
    for bad, options in (([1.0], {}), ([[1, 2]], {}), (z, {"candidates": z[:, :2]})):
        with pytest.raises(ValueError, match="Received: "):
            effective_channels(tf.constant(bad), **options)


@pytest.mark.parametrize("replicas", [2, 4])
def test_effective_channels_count_the_rows_of_every_replica(strategy_of, replicas):
    z = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
    strategy = strategy_of(replicas)

    def step():
        rows = tf.split(tf.constant(z), replicas)
        mine = tf.gather(tf.stack(rows), distribute.replica_id())
        return effective_channels(mine, candidates=distribute.gather(mine))

    found = strategy.run(tf.function(step)).values
    for value in found:
        assert float(value) == pytest.approx(float(effective_channels(z)), rel=1e-5)
