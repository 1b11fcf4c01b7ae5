import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import dino_loss, dino_metrics, teacher_probabilities, update_center


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


PROTOTYPES = unit(np.cos(0.2 + 0.6 * np.arange(3)[:, None] + 0.9 * np.arange(6)))
CENTER = np.array([0.1, -0.2, 0.05])


@pytest.fixture
def golden_logits(golden_views):
    """Teacher's and student's logits of the two crops."""
    cosines = [unit(z) @ PROTOTYPES.T for z in golden_views[:2]]
    teacher = [4 * s for s in cosines]
    return teacher, [3 * cosines[0] + 0.1, 3 * cosines[1] - 0.2]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-6)])
def test_golden_loss(golden_logits, dtype, tolerance):
    teacher, student = ([x.astype(dtype) for x in logits] for logits in golden_logits)
    goals = [teacher_probabilities(t, CENTER.astype(dtype), temperature=0.04) for t in teacher]
    value = dino_loss(student, goals)
    assert value.dtype == dtype
    assert float(value) == pytest.approx(1.5985560334, abs=tolerance)


def test_golden_center(golden_logits):
    logits = np.concatenate(golden_logits[0])
    expected = [0.095604, -0.095314, 0.173141]
    np.testing.assert_allclose(update_center(CENTER, logits), expected, atol=1e-6)


@pytest.mark.parametrize(("views", "terms"), [(2, 2), (10, 18)])
def test_the_mean_runs_over_pairs_of_different_crops(views, terms):
    rng = np.random.default_rng(0)
    student = list(rng.normal(size=(views, 3, 5)))
    goals = [softmax(rng.normal(size=(3, 5))) for _ in range(2)]
    log_probs = [np.log(softmax(s / 0.1)) for s in student]
    pairs = [(i, v) for i in range(2) for v in range(views) if v != i]
    assert len(pairs) == terms
    expected = -sum(np.sum(goals[i] * log_probs[v]) / 3 for i, v in pairs) / terms
    assert float(dino_loss(student, goals)) == pytest.approx(expected, abs=1e-10)


def test_teacher_probabilities_equal_numpy(golden_logits):
    logits = golden_logits[0][0]
    value = teacher_probabilities(logits, CENTER, temperature=0.07)
    np.testing.assert_allclose(value, softmax((logits - CENTER) / 0.07), atol=1e-12)
    scheduled = teacher_probabilities(logits, CENTER, temperature=tf.constant(0.07))
    np.testing.assert_allclose(scheduled, value, atol=1e-6)


def test_shifts_of_the_teacher(golden_logits):
    logits, move = golden_logits[0][0], np.array([0.3, -1.0, 2.0])
    value = teacher_probabilities(logits, CENTER, temperature=0.04)
    for shifted in (
        teacher_probabilities(logits + 5, CENTER, temperature=0.04),
        teacher_probabilities(logits + move, CENTER + move, temperature=0.04),
    ):
        np.testing.assert_allclose(shifted, value, atol=1e-10)
    other = teacher_probabilities(logits, CENTER + move, temperature=0.04)
    assert np.abs(other - value).max() > 0.1


def test_a_constant_student_costs_log_k():
    goals = [tf.one_hot([0, 3], 7)] * 2
    assert float(dino_loss([tf.ones([2, 7])] * 5, goals)) == pytest.approx(np.log(7), rel=1e-6)


def test_only_the_student_learns(golden_logits):
    teacher, student = ([tf.constant(x) for x in logits] for logits in golden_logits)
    center = tf.constant(CENTER)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([teacher, student, center])
        goals = [teacher_probabilities(t, center, temperature=0.04) for t in teacher]
        value = dino_loss(student, goals)
        moved = update_center(CENTER, teacher[0])
        metrics = dino_metrics(student, goals)
    assert all(np.abs(g).max() > 1e-3 for g in tape.gradient(value, student))
    assert tape.gradient(value, [*teacher, center]) == [None] * 3
    assert tape.gradient(goals[0], teacher[0]) is None
    assert tape.gradient(moved, teacher[0]) is None
    for metric in metrics.values():
        assert tape.gradient(metric, [*teacher, *student]) == [None] * 4


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_center_is_the_moving_average(momentum):
    center = np.array([1.0, 2.0], np.float32)
    logits = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float16)
    value = update_center(center, logits, momentum=momentum)
    assert value.dtype == tf.float32
    mean = logits.astype(np.float32).mean(axis=0)
    np.testing.assert_allclose(value, momentum * center + (1 - momentum) * mean, rtol=1e-5)
    if momentum == 1:
        np.testing.assert_array_equal(value, center)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_leaves_the_center(bad):
    center = tf.constant([1.0, 2.0])
    logits = tf.constant([[1.0, bad], [1.0, 0.0]])
    np.testing.assert_array_equal(update_center(center, logits), center)


def test_metrics_equal_numpy(golden_logits):
    teacher, student = golden_logits
    goals = [softmax(t / 0.5) for t in teacher]
    probs = [softmax(s / 0.1) for s in student]
    entropy = -np.mean([np.sum(p * np.log(p), axis=1) for p in goals])
    pairs = ((goals[0], probs[1]), (goals[1], probs[0]))
    divergence = np.mean([np.sum(p * np.log(p / q), axis=1) for p, q in pairs])
    metrics = dino_metrics(student, goals)
    assert float(metrics["teacher_entropy"]) == pytest.approx(entropy, abs=1e-10)
    assert float(metrics["teacher_student_kl"]) == pytest.approx(divergence, abs=1e-10)
    assert sum(map(float, metrics.values())) == pytest.approx(float(dino_loss(student, goals)))


def test_metrics_tell_the_collapses_apart():
    uniform = dino_metrics([tf.zeros([2, 4])] * 2, [tf.fill([2, 4], 0.25)] * 2)
    assert float(uniform["teacher_entropy"]) == pytest.approx(np.log(4), rel=1e-6)
    assert float(uniform["teacher_student_kl"]) == pytest.approx(0, abs=1e-6)
    one_hot = dino_metrics([tf.one_hot([0, 0], 4) * 10] * 2, [tf.one_hot([0, 0], 4)] * 2)
    assert float(one_hot["teacher_entropy"]) == 0
    assert float(one_hot["teacher_student_kl"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("edge", ["one image", "zeros", "huge"])
def test_finite_at_the_edges(assert_finite, edge):
    rng = np.random.default_rng(0)
    student = list(rng.normal(size=(3, 1 if edge == "one image" else 4, 5)))
    teacher = student[0].astype(np.float32)
    if edge == "zeros":
        teacher, student = teacher * 0, [s * 0 for s in student]
    if edge == "huge":
        teacher, student = teacher * 1e6, [s * 1e6 for s in student]
    goals = [teacher_probabilities(teacher, tf.zeros([5]), temperature=1e-3)] * 2
    assert_finite(lambda *s: dino_loss(s, goals, temperature=1e-3), *student, jit=edge == "huge")


def test_bad_arguments_are_refused():
    logits, center = tf.zeros([2, 3]), tf.zeros([3])
    for arguments, temperature in (
        ((logits, center), 0),
        ((logits, tf.zeros([4])), 0.1),
        ((logits, logits), 0.1),
        ((center, center), 0.1),
    ):
        with pytest.raises(ValueError, match="Received: "):
            teacher_probabilities(*arguments, temperature=temperature)
    for momentum in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\]. Received: "):
            update_center(center, logits, momentum=momentum)
    with pytest.raises(ValueError, match="Received: "):
        dino_loss([logits], [logits])
