import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.evaluate import extract_features


def dataset(n, batch_size, labelled=True):
    images = np.random.default_rng(0).normal(size=(n, 4, 4, 3)).astype(np.float32)
    parts = {"image": images}
    if labelled:
        parts["label"] = np.arange(n, dtype=np.int32) % 3
    return images, tf.data.Dataset.from_tensor_slices(parts).batch(batch_size)


@pytest.mark.parametrize(("n", "batch_size"), [(10, 4), (8, 4), (3, 8), (1, 1)])
def test_every_example_once_and_in_order(n, batch_size):
    images, data = dataset(n, batch_size)
    features, labels = extract_features(lambda x: tf.reduce_mean(x, axis=[1, 2]), data)
    np.testing.assert_allclose(features, images.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_array_equal(labels, np.arange(n) % 3)
    assert features.dtype == np.float32
    assert labels.dtype == np.int64


def test_a_partial_batch_does_not_trace_again():
    shapes = []

    def embed(x):
        shapes.append(tuple(x.shape))
        return tf.reduce_sum(x, axis=[1, 2])

    extract_features(embed, dataset(11, 4)[1])
    assert shapes == [(4, 4, 4, 3)]


def test_a_tf_function_keeps_its_trace_between_calls():
    traces = []

    @tf.function
    def embed(x):
        traces.append(x.shape)
        return tf.reduce_sum(x, axis=[1, 2])

    for _ in range(3):
        extract_features(embed, dataset(6, 4)[1])
    assert len(traces) == 1


def test_half_precision_maps_become_float32_rows():
    images, data = dataset(5, 2, labelled=False)
    features, labels = extract_features(lambda x: tf.cast(x, tf.bfloat16), data)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, images.reshape(5, -1), rtol=1e-2)
    np.testing.assert_array_equal(labels, [-1] * 5)


def test_empty_batches_are_passed_over_and_an_empty_data_set_is_refused():
    images, data = dataset(3, 3)
    empty = {"image": tf.zeros([0, 4, 4, 3]), "label": tf.zeros([0], tf.int32)}
    features, _ = extract_features(lambda x: x, [empty, *data, empty])
    np.testing.assert_array_equal(features, images.reshape(3, -1))
    with pytest.raises(ValueError, match="Received: none"):
        extract_features(lambda x: x, [empty])


def test_a_batch_larger_than_the_first_is_refused():
    batches = [{"image": tf.zeros([2, 1])}, {"image": tf.zeros([3, 1])}]
    with pytest.raises(ValueError, match="Received: 3 after 2"):
        extract_features(lambda x: x, batches)
