import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import in_batch_info_nce, nearest_neighbours


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


SUPPORT = unit(np.sin(0.3 + 0.5 * np.arange(5)[:, None] + 1.7 * np.arange(6)))


def nnclr(z, p, support):
    rows, _ = nearest_neighbours(z, support)
    return in_batch_info_nce(rows, p, temperature=0.1, gradient_to="keys")


def test_golden_values(golden_views):
    z1, z2, _ = golden_views
    rows, places = nearest_neighbours(z1, SUPPORT)
    assert places.dtype == tf.int32
    assert places.numpy().tolist() == [0, 1, 3, 4]
    np.testing.assert_array_equal(rows, SUPPORT[[0, 1, 3, 4]])
    assert float(nnclr(z1, z2, SUPPORT)) == pytest.approx(0.7584044642, abs=1e-9)
    single = nnclr(*(x.astype(np.float32) for x in (z1, z2, SUPPORT)))
    assert float(single) == pytest.approx(0.7584044642, abs=1e-6)


def test_equals_the_loop(random_views):
    z, _ = random_views(20, 6)
    support = unit(np.random.default_rng(1).normal(size=(50, 6)))
    expected = [np.argmax([row @ other for other in support]) for row in z]
    _, places = nearest_neighbours(z, support)
    np.testing.assert_array_equal(places, expected)
    _, longer = nearest_neighbours(100 * z, support)
    np.testing.assert_array_equal(longer, expected)


def test_an_embedding_in_the_support_set_is_its_own_neighbour(random_views):
    z = unit(random_views(4, 6)[0])
    support = np.concatenate([SUPPORT, z])
    rows, places = nearest_neighbours(z, support)
    assert places.numpy().tolist() == [5, 6, 7, 8]
    np.testing.assert_array_equal(rows, z)


def test_order_of_the_support_set_does_not_matter(golden_views):
    z1, z2, _ = golden_views
    value = float(nnclr(z1, z2, SUPPORT))
    assert float(nnclr(z1, z2, SUPPORT[[3, 0, 4, 2, 1]])) == pytest.approx(value, abs=1e-12)


def test_one_neighbour_for_all(golden_views):
    z1, z2, _ = golden_views
    scores = unit(z2) @ SUPPORT[0] / 0.1
    expected = np.mean(np.log(np.sum(np.exp(scores))) - scores)
    assert float(nnclr(z1, z2, SUPPORT[:1])) == pytest.approx(expected, abs=1e-10)


def test_only_the_prediction_learns(golden_views):
    z, p, support = (tf.constant(x) for x in (*golden_views[:2], SUPPORT))
    with tf.GradientTape() as tape:
        tape.watch([z, p, support])
        value = nnclr(z, p, support)
    gradients = tape.gradient(value, [z, p, support])
    assert gradients[0] is gradients[2] is None
    assert np.abs(gradients[1]).max() > 1e-3


def test_edges():
    rows, places = nearest_neighbours(tf.zeros([1, 3]), tf.eye(3))
    assert places.numpy().tolist() == [0]
    np.testing.assert_array_equal(rows, [[1, 0, 0]])
    z = tf.constant([[0.1, 0.9]])
    compiled = tf.function(nearest_neighbours, jit_compile=True)
    assert compiled(z, tf.eye(2))[1].numpy().tolist() == [1]
    half_rows, _ = nearest_neighbours(tf.cast(z, tf.float16), tf.eye(2))
    assert half_rows.dtype == tf.float32


@pytest.mark.parametrize("support", [np.ones([4, 2]), np.ones(3), np.ones([4, 3], int)])
def test_bad_arguments_are_refused(support):
    with pytest.raises(ValueError, match=r"support must .*Received: "):
        nearest_neighbours(tf.ones([2, 3]), support)
