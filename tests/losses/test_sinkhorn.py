import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import sinkhorn, swav_loss


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


PROTOTYPES = unit(np.cos(0.2 + 0.6 * np.arange(3)[:, None] + 0.9 * np.arange(6)))
GOLDEN = [
    [0.516891, 0.482767, 0.000342],
    [0.001678, 0.523361, 0.474961],
    [0.000928, 0.030403, 0.968670],
    [0.504238, 0.054156, 0.441607],
]


def plain_sinkhorn(scores, epsilon, iterations):
    """Prototypes by samples, as the authors write it, without logarithms."""
    q = np.exp(scores / epsilon).T
    k, b = q.shape
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(axis=1, keepdims=True) * k
        q /= q.sum(axis=0, keepdims=True) * b
    return (q * b).T


@pytest.fixture
def scores():
    """Cosines of 256 samples and 30 prototypes."""
    rng = np.random.default_rng(0)
    return unit(rng.normal(size=(256, 16))) @ unit(rng.normal(size=(30, 16))).T


def test_golden_codes(golden_views):
    scores = unit(golden_views[0]) @ PROTOTYPES.T
    np.testing.assert_allclose(sinkhorn(scores), GOLDEN, atol=1e-6)
    single = sinkhorn(scores.astype(np.float32))
    assert single.dtype == tf.float32
    np.testing.assert_allclose(single, GOLDEN, atol=1e-6)


def test_golden_loss(golden_views):
    z1, z2, _ = golden_views
    for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 1e-6)):
        scores = [(unit(z) @ PROTOTYPES.T).astype(dtype) for z in (z1, z2)]
        value = float(swav_loss(scores, [sinkhorn(s) for s in scores]))
        assert value == pytest.approx(1.0017409947, abs=tolerance)


@pytest.mark.parametrize("epsilon", [0.03, 0.05, 1.0])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_equals_the_plain_form(scores, epsilon, iterations):
    codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
    np.testing.assert_allclose(codes, plain_sinkhorn(scores, epsilon, iterations), atol=1e-10)


def test_samples_sum_to_one_and_prototypes_in_the_limit(scores):
    codes = sinkhorn(scores).numpy()
    np.testing.assert_allclose(codes.sum(axis=1), 1, atol=1e-12)
    share = codes.sum(axis=0) / (256 / 30)
    assert np.abs(share - 1).max() > 0.05
    balanced = sinkhorn(scores, iterations=200).numpy()
    np.testing.assert_allclose(balanced.sum(axis=0), 256 / 30, rtol=1e-6)


def test_constant_scores_give_uniform_codes_and_log_k():
    codes = sinkhorn(tf.fill([6, 5], 0.3))
    np.testing.assert_allclose(codes, 0.2, rtol=1e-6)
    value = swav_loss([tf.zeros([6, 5])] * 3, [codes] * 2)
    assert float(value) == pytest.approx(np.log(5), rel=1e-6)


def test_shifts_of_prototypes_but_not_of_samples_leave_the_codes(scores):
    rng = np.random.default_rng(1)
    codes = sinkhorn(scores, iterations=1)
    np.testing.assert_allclose(sinkhorn(scores + 7, iterations=1), codes, atol=1e-10)
    of_prototypes = scores + rng.normal(size=(1, 30))
    np.testing.assert_allclose(sinkhorn(of_prototypes, iterations=1), codes, atol=1e-10)
    of_samples = scores + rng.normal(size=(256, 1))
    assert np.abs(sinkhorn(of_samples) - sinkhorn(scores)).max() > 0.01


def test_a_smaller_epsilon_gives_harder_codes(scores):
    entropies = []
    for epsilon in (0.5, 0.05, 0.02):
        codes = sinkhorn(scores, epsilon=epsilon).numpy()
        entropies.append(-np.mean(np.sum(codes * np.log(codes), axis=1)))
    assert entropies[0] > entropies[1] > entropies[2] > 0


def test_order_of_samples_does_not_matter(scores):
    order = np.random.default_rng(3).permutation(256)
    np.testing.assert_allclose(sinkhorn(scores[order]), sinkhorn(scores).numpy()[order], atol=1e-12)


@pytest.mark.parametrize("epsilon", [1e-4, 0.05])
def test_a_sample_far_from_all_prototypes_keeps_its_code(epsilon):
    # exp(-2 / 1e-4) is 0 in float32, and so would be the sample's sum
    scores = tf.constant([[1.0, 0.9], [0.8, 1.0], [-1.0, -0.9]])
    codes = sinkhorn(scores, epsilon=epsilon).numpy()
    assert np.isfinite(codes).all()
    np.testing.assert_allclose(codes.sum(axis=1), 1, rtol=1e-6)
    assert codes[2, 1] > codes[2, 0]


def test_codes_of_one_sample_and_of_half_precision(scores):
    np.testing.assert_allclose(sinkhorn(tf.constant([[3.0, 1.0, 2.0]])), [[1 / 3] * 3], rtol=1e-6)
    half = sinkhorn(tf.constant(scores, tf.float16))
    assert half.dtype == tf.float32
    assert np.isfinite(half.numpy()).all()
    np.testing.assert_allclose(half, sinkhorn(scores), atol=1e-2)


def test_codes_carry_no_gradient(scores):
    views = [tf.constant(scores[:8]), tf.constant(scores[8:16])]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(views)
        codes = [sinkhorn(view) for view in views]
        value = swav_loss(views, codes)
    assert tape.gradient(codes[0], views[0]) is None
    constant = [tf.constant(code.numpy()) for code in codes]
    with tf.GradientTape() as other:
        other.watch(views)
        same = swav_loss(views, constant)
    pairs = zip(tape.gradient(value, views), other.gradient(same, views), strict=True)
    for with_codes, without in pairs:
        assert np.abs(without).max() > 1e-4
        np.testing.assert_array_equal(with_codes, without)


def test_compiled_equals_eager(scores):
    single = tf.constant(scores, tf.float32)
    compiled = tf.function(sinkhorn, jit_compile=True)(single)
    np.testing.assert_allclose(compiled, sinkhorn(single), atol=1e-5)


def test_bad_arguments_are_refused():
    scores = tf.zeros([3, 4])
    for options in ({"epsilon": 0}, {"iterations": 0}):
        with pytest.raises(ValueError, match="Received: 0"):
            sinkhorn(scores, **options)
    with pytest.raises(ValueError, match=r"scores must .*Received: "):
        sinkhorn(scores[0])
    with pytest.raises(ValueError, match="Received: 1 views"):
        swav_loss([scores], [sinkhorn(scores)])
