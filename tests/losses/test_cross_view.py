import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses.cross_view import cross_view_cross_entropy


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def loop_cross_view(logits, targets, t):
    """The mean over the pairs, and how many there are."""
    terms = []
    for i, target in enumerate(targets):
        for v, view in enumerate(logits):
            if v == i:
                continue
            rows = [-np.sum(q * np.log(p)) for q, p in zip(target, softmax(view / t), strict=True)]
            terms.append(np.mean(rows))
    return np.mean(terms), len(terms)


@pytest.fixture
def case():
    """A function (views, targets, b, K) -> logits and distributions."""

    def make(views, targets, b=3, k=5):
        rng = np.random.default_rng(0)
        logits = list(rng.normal(size=(views, b, k)))
        return logits, [softmax(2 * rng.normal(size=(b, k))) for _ in range(targets)]

    return make


@pytest.mark.parametrize(
    ("views", "targets", "pairs"), [(2, 2, 2), (2, 1, 1), (8, 2, 14), (3, 3, 6)]
)
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_the_loop(case, views, targets, pairs, temperature):
    logits, goals = case(views, targets)
    expected, count = loop_cross_view(logits, goals, temperature)
    assert count == pairs == targets * (views - 1)
    value = float(cross_view_cross_entropy(logits, goals, temperature=temperature))
    assert value == pytest.approx(expected, abs=1e-10)


def test_a_view_never_predicts_its_own_target(case):
    logits, goals = case(2, 1)
    value = float(cross_view_cross_entropy(logits, goals, temperature=0.1))
    changed = [logits[0] * 5, logits[1]]
    assert float(cross_view_cross_entropy(changed, goals, temperature=0.1)) == value


def test_only_views_learn(case, check_gradient):
    logits, goals = case(4, 2)
    views = [tf.constant(x) for x in logits]
    targets = [tf.constant(x) for x in goals]
    with tf.GradientTape() as tape:
        tape.watch([views, targets])
        value = cross_view_cross_entropy(views, targets, temperature=0.3)
    of_views, of_targets = tape.gradient(value, [views, targets])
    assert all(np.abs(g).max() > 1e-3 for g in of_views)
    assert of_targets == [None, None]
    check_gradient(lambda *x: cross_view_cross_entropy(x, goals, temperature=0.3), *logits)


def test_order_and_shards(case):
    logits, goals = case(3, 2, b=8)
    value = float(cross_view_cross_entropy(logits, goals, temperature=0.2))
    order = np.random.default_rng(3).permutation(8)
    permuted = cross_view_cross_entropy(
        [x[order] for x in logits], [x[order] for x in goals], temperature=0.2
    )
    assert float(permuted) == pytest.approx(value, abs=1e-12)
    swapped = cross_view_cross_entropy(
        [logits[1], logits[0], logits[2]], goals[::-1], temperature=0.2
    )
    assert float(swapped) == pytest.approx(value, abs=1e-12)
    parts = [
        cross_view_cross_entropy([x[r] for x in logits], [x[r] for x in goals], temperature=0.2)
        for r in (slice(4), slice(4, 8))
    ]
    assert np.mean([float(part) for part in parts]) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("temperature", [1e-3, 0.1])
@pytest.mark.parametrize("edge", ["one image", "zeros", "one-hot", "one class"])
def test_finite_at_the_edges(case, assert_finite, edge, temperature):
    logits, goals = case(3, 2, b=1 if edge == "one image" else 3, k=1 if edge == "one class" else 5)
    if edge == "zeros":
        logits = [x * 0 for x in logits]
    if edge == "one-hot":
        goals = [np.eye(5)[[0, 1, 2]]] * 2
    goals = [g.astype(np.float32) for g in goals]
    value, _ = assert_finite(
        lambda *x: cross_view_cross_entropy(x, goals, temperature=temperature),
        *logits,
        jit=temperature < 0.01 and edge == "one-hot",
    )
    if edge == "zeros":
        assert value == pytest.approx(np.log(5), rel=1e-6)
    if edge == "one class":
        assert value == 0


def test_half_precision_is_computed_in_float32(case):
    logits, goals = case(3, 2)
    value = cross_view_cross_entropy(
        [x.astype(np.float16) for x in logits],
        [g.astype(np.float16) for g in goals],
        temperature=1.0,
    )
    assert value.dtype == tf.float32
    assert float(value) == pytest.approx(loop_cross_view(logits, goals, 1.0)[0], abs=1e-2)


def test_bad_arguments_are_refused(case):
    logits, goals = case(3, 2)
    for views, targets in (
        (logits[:1], goals[:1]),
        (logits, []),
        (logits[:2], [*goals, goals[0]]),
        ([*logits, logits[0][:2]], goals),
        (logits, [goals[0][:, :2]]),
        ([x[0] for x in logits], goals),
    ):
        with pytest.raises(ValueError, match="Received: "):
            cross_view_cross_entropy(views, targets, temperature=0.1)
    with pytest.raises(ValueError, match=r"temperature must be above 0. Received: 0"):
        cross_view_cross_entropy(logits, goals, temperature=0)
