import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses.stored_rows import row_numbers, stored_rows


def test_rows_are_constants_in_the_learners_precision():
    queue = tf.Variable(np.arange(6, dtype=np.float32).reshape(3, 2))
    with tf.GradientTape() as tape:
        rows = stored_rows(queue, "queue", like=tf.zeros([5, 2], tf.float64))
        value = tf.reduce_sum(rows)
    assert rows.dtype == tf.float64
    np.testing.assert_array_equal(rows, queue)  # not normalised
    assert tape.gradient(value, queue) is None


@pytest.mark.parametrize("bad", [tf.ones([3, 4]), tf.ones([2]), tf.ones([3, 2], tf.int32)])
def test_other_rows_are_refused(bad):
    with pytest.raises(ValueError, match=r"queue must .*Received: "):
        stored_rows(bad, "queue", like=tf.ones([5, 2]))


def test_numbers_are_int64():
    numbers = row_numbers(np.array([[1, 2]], np.int32), "negatives", rank=2, like=tf.ones([1, 3]))
    assert numbers.dtype == tf.int64
    assert numbers.numpy().tolist() == [[1, 2]]


@pytest.mark.parametrize("bad", [[0.5, 1.0], [[1], [2]], [1, 2, 3]])
def test_other_numbers_are_refused(bad):
    with pytest.raises(ValueError, match=r"indices must .*Received: "):
        row_numbers(bad, "indices", rank=1, like=tf.ones([2, 4]))


def test_a_batch_of_unknown_size_passes():
    spec = tf.TensorSpec([None], tf.int32)
    taken = tf.function(lambda n: row_numbers(n, "n", rank=1, like=tf.ones([2, 4])))
    assert taken.get_concrete_function(spec)(tf.constant([1, 0])).numpy().tolist() == [1, 0]
