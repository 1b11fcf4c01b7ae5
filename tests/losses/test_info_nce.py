import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import contrastive_accuracy, info_nce, info_nce_logits


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


QUEUE = unit(np.sin(0.3 + 0.5 * np.arange(5)[:, None] + 1.7 * np.arange(6)))


def loop_info_nce(q, k, queue, t):
    losses = []
    for i in range(len(q)):
        query, key = q[i] / np.linalg.norm(q[i]), k[i] / np.linalg.norm(k[i])
        positive = np.exp(query @ key / t)
        losses.append(-np.log(positive / (positive + sum(np.exp(query @ n / t) for n in queue))))
    return np.mean(losses)


@pytest.mark.parametrize(("temperature", "value"), [(0.07, 4.2700134969), (0.2, 2.1351705443)])
def test_golden_values(golden_views, temperature, value):
    q, k, _ = golden_views
    assert float(info_nce(q, k, QUEUE, temperature=temperature)) == pytest.approx(value, abs=1e-9)
    single = info_nce(*(x.astype(np.float32) for x in (q, k, QUEUE)), temperature=temperature)
    assert single.dtype == tf.float32
    assert float(single) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("b", "size"), [(1, 1), (3, 7), (5, 2)])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_the_loop(random_views, b, size, temperature):
    q, k = random_views(b, 6)
    queue = np.random.default_rng(1).normal(size=(size, 6))  # not of unit length
    value = float(info_nce(q, k, queue, temperature=temperature))
    assert value == pytest.approx(loop_info_nce(q, k, queue, temperature), abs=1e-10)


@pytest.mark.parametrize("size", [1, 64, 1000])
def test_collapsed_rows_give_log_of_the_candidates(size):
    z, queue = tf.ones([3, 4]), tf.fill([size, 4], 0.5)
    value = float(info_nce(z, z, queue, temperature=0.07))
    assert value == pytest.approx(np.log(size + 1), rel=1e-6)


def test_random_directions(random_views):
    q, k = random_views(256, 128)
    queue = unit(np.random.default_rng(1).normal(size=(4096, 128)))
    cosines = np.sum(unit(q) * unit(k), axis=1)
    expected = np.log(4097) + 1 / (2 * 128 * 0.3**2) - cosines.mean() / 0.3
    assert float(info_nce(q, k, queue, temperature=0.3)) == pytest.approx(expected, abs=0.03)


def test_what_does_and_does_not_matter(random_views):
    q, k = random_views(6, 6)
    value = float(info_nce(q, k, QUEUE, temperature=0.2))
    order = np.random.default_rng(3).permutation(6)
    same = [(q[order], k[order], QUEUE), (10 * q, 0.1 * k, QUEUE), (q, k, QUEUE[::-1].copy())]
    for q2, k2, queue in same:
        assert float(info_nce(q2, k2, queue, temperature=0.2)) == pytest.approx(value, abs=1e-10)
    # only the queue is negative: the keys of other images are not, and the sides are not symmetric
    others = np.concatenate([k[:1], k[1:][::-1]])
    first = info_nce_logits(q, others, QUEUE, temperature=0.2)[0]
    np.testing.assert_array_equal(first, info_nce_logits(q, k, QUEUE, temperature=0.2)[0])
    assert abs(float(info_nce(k, q, QUEUE, temperature=0.2)) - value) > 1e-3


def test_logits_have_the_key_first(golden_views):
    q, k, _ = golden_views
    logits = info_nce_logits(q, k, QUEUE, temperature=0.5).numpy()
    assert logits.shape == (4, 6)
    np.testing.assert_allclose(logits[:, 0], 2 * np.sum(unit(q) * unit(k), axis=1))
    np.testing.assert_allclose(logits[:, 1:], 2 * unit(q) @ QUEUE.T)


def test_only_queries_learn(golden_views, check_gradient):
    q, k, queue = (tf.constant(x) for x in (*golden_views[:2], QUEUE))
    with tf.GradientTape() as tape:
        tape.watch([q, k, queue])
        value = info_nce(q, k, queue, temperature=0.2)
    gradients = tape.gradient(value, [q, k, queue])
    assert np.abs(gradients[0]).max() > 1e-3
    assert gradients[1] is None
    assert gradients[2] is None
    check_gradient(lambda x: info_nce(x, k, queue, temperature=0.2), q.numpy())


def test_shards_average_to_the_whole(random_views):
    q, k = random_views(8, 6)
    parts = [info_nce(q[i : i + 2], k[i : i + 2], QUEUE, temperature=0.2) for i in (0, 2, 4, 6)]
    whole = float(info_nce(q, k, QUEUE, temperature=0.2))
    assert np.mean([float(part) for part in parts]) == pytest.approx(whole, abs=1e-12)


@pytest.mark.parametrize("temperature", [1e-3, 0.1])
@pytest.mark.parametrize("case", ["one image", "zeros", "one zero", "equal", "huge"])
def test_finite_at_the_edges(random_views, assert_finite, case, temperature):
    q, k = random_views(1 if case == "one image" else 4, 6)
    if case == "zeros":
        q, k = q * 0, k * 0
    if case == "one zero":
        q[1] = 0
    if case == "equal":
        k = q
    if case == "huge":
        q = q * 1e15
    queue = QUEUE.astype(np.float32)
    keys = k.astype(np.float32)
    _, (gradient,) = assert_finite(
        lambda x: info_nce(x, keys, queue, temperature=temperature), q, jit=temperature < 0.01
    )
    if case == "one zero":
        assert (gradient[1] == 0).all()


def test_half_precision_is_computed_in_float32(random_views):
    q, k = (tf.constant(z, tf.float32) for z in random_views(8, 6))
    queue = tf.constant(QUEUE, tf.float32)
    half = info_nce(tf.cast(q, tf.float16), tf.cast(k, tf.float16), queue, temperature=0.2)
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(float(info_nce(q, k, queue, temperature=0.2)), abs=1e-2)


def test_accuracy_counts_the_best_candidate():
    logits = tf.constant([[3.0, 1, 2], [1, 3, 2], [2, 2, 1], [1, 1, 1]])
    assert float(contrastive_accuracy(logits)) == 1 / 4  # ties do not count
    assert float(contrastive_accuracy(logits, tf.constant([0, 1, 2, 0]))) == 2 / 4
    assert float(contrastive_accuracy(tf.constant([[np.nan, 1.0]]))) == 0


def test_accuracy_has_no_gradient_and_compiles():
    logits = tf.constant(np.random.default_rng(0).normal(size=(50, 4)), tf.float32)
    expected = np.mean(np.argmax(logits, axis=1) == 0)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = contrastive_accuracy(logits)
    assert float(value) == pytest.approx(expected)
    assert tape.gradient(value, logits) is None
    compiled = tf.function(contrastive_accuracy, jit_compile=True)
    assert float(compiled(logits)) == pytest.approx(expected)


def test_bad_arguments_are_refused():
    z, queue = tf.ones([2, 3]), tf.ones([4, 3])
    for arguments in ((z, tf.ones([3, 3]), queue), (z, z, tf.ones([4, 2])), (z[0], z, queue)):
        with pytest.raises(ValueError, match="Received: "):
            info_nce(*arguments, temperature=0.1)
    with pytest.raises(ValueError, match=r"temperature must be above 0. Received: 0"):
        info_nce(z, z, queue, temperature=0)
