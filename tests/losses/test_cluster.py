import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import cluster_cross_entropy, cross_entropy


def loop_cluster(scores, targets, t):
    heads = []
    for logits, numbers in zip(scores, targets, strict=True):
        losses = []
        for row, line in enumerate(logits / t):
            target = numbers[row % len(numbers)]  # crop after crop
            if target >= 0:
                losses.append(np.log(np.sum(np.exp(line))) - line[target])
        heads.append(np.mean(losses) if losses else 0)
    return np.mean(heads)


@pytest.fixture
def case():
    """A function (heads, crops, b) -> scores and targets."""

    def make(heads, crops, b):
        rng = np.random.default_rng(0)
        sizes = [5 + h for h in range(heads)]
        scores = [rng.uniform(-1, 1, size=(crops * b, k)) for k in sizes]
        return scores, [rng.integers(k, size=b) for k in sizes]

    return make


@pytest.mark.parametrize(("heads", "crops", "b"), [(1, 1, 1), (3, 2, 4), (2, 6, 3)])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_the_loop(case, heads, crops, b, temperature):
    scores, targets = case(heads, crops, b)
    value = cluster_cross_entropy(scores, targets, temperature=temperature)
    assert float(value) == pytest.approx(loop_cluster(scores, targets, temperature), abs=1e-10)


@pytest.mark.parametrize("unknown", [-1, -100])
def test_unknown_images_do_not_count(case, unknown):
    scores, targets = case(2, 3, 4)
    targets[0][[0, 2]] = unknown
    targets[1][1] = unknown
    value = float(cluster_cross_entropy(scores, targets))
    assert value == pytest.approx(loop_cluster(scores, targets, 0.1), abs=1e-10)
    rows = [tf.constant(s) for s in scores]
    with tf.GradientTape() as tape:
        tape.watch(rows)
        loss = cluster_cross_entropy(rows, targets)
    first, second = tape.gradient(loss, rows)
    assert (first.numpy()[[0, 2, 4, 6, 8, 10]] == 0).all()
    assert np.abs(first[1]).max() > 0
    assert np.abs(second[0]).max() > 0
    scores[0][[0, 2, 4, 6, 8, 10]] = 50
    assert float(cluster_cross_entropy(scores, targets)) == pytest.approx(value, abs=1e-12)


def test_a_head_that_knows_no_image_contributes_nothing(case, assert_finite):
    scores, targets = case(2, 2, 3)
    targets[1][:] = -1
    one = float(cluster_cross_entropy(scores[:1], targets[:1]))
    value, (_, gradient) = assert_finite(lambda *s: cluster_cross_entropy(s, targets), *scores)
    assert value == pytest.approx(one / 2, rel=1e-6)
    assert (gradient == 0).all()


def test_one_head_at_temperature_one_is_cross_entropy(case):
    scores, targets = case(1, 1, 6)
    plain = cross_entropy(tf.constant(scores[0]), tf.constant(targets[0]))
    value = cluster_cross_entropy(scores, targets, temperature=1.0)
    assert float(value) == pytest.approx(float(plain), abs=1e-12)


def test_constant_scores_cost_log_k_and_order_does_not_matter(case):
    scores, targets = case(1, 1, 6)
    value = float(cluster_cross_entropy([s * 0 for s in scores], targets))
    assert value == pytest.approx(np.log(5), abs=1e-12)
    order = np.random.default_rng(3).permutation(6)
    permuted = cluster_cross_entropy([scores[0][order]], [targets[0][order]])
    assert float(permuted) == pytest.approx(float(cluster_cross_entropy(scores, targets)))


def test_gradient_is_that_of_finite_differences(case, check_gradient):
    scores, targets = case(2, 2, 3)
    targets[0][1] = -1
    check_gradient(lambda *s: cluster_cross_entropy(s, targets, temperature=0.3), *scores)


def test_small_temperature_half_precision_and_compilation(case, assert_finite):
    scores, targets = case(2, 2, 3)
    assert_finite(lambda *s: cluster_cross_entropy(s, targets, temperature=1e-3), *scores, jit=True)
    half = cluster_cross_entropy([s.astype(np.float16) for s in scores], targets)
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(float(cluster_cross_entropy(scores, targets)), abs=1e-2)


def test_bad_arguments_are_refused(case):
    scores, targets = case(2, 2, 3)
    for bad_scores, bad_targets in (
        ([], []),
        (scores, targets[:1]),
        ([scores[0][:5], scores[1]], targets),
        (scores, [t * 1.0 for t in targets]),
        ([s[0] for s in scores], targets),
    ):
        with pytest.raises(ValueError, match="Received: "):
            cluster_cross_entropy(bad_scores, bad_targets)
    with pytest.raises(ValueError, match=r"temperature must be above 0. Received: 0"):
        cluster_cross_entropy(scores, targets, temperature=0)
