import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import arguments


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (tf.float16, tf.float32),
        (tf.bfloat16, tf.float32),
        (tf.float32, tf.float32),
        (tf.float64, tf.float64),
    ],
)
def test_precision_is_at_least_float32(given, expected):
    tensor = arguments.float_tensor(tf.constant([[0.5, 2.0]], given), "z", rank=2)
    assert tensor.dtype == expected
    np.testing.assert_array_equal(tensor, [[0.5, 2.0]])


@pytest.mark.parametrize(
    "value", [np.ones([2, 2], np.int32), np.ones([2], np.float32), np.ones([0, 2], np.float32)]
)
def test_a_tensor_of_the_wrong_kind_is_refused(value):
    with pytest.raises(ValueError, match=r"^z must .*Received: "):
        arguments.float_tensor(value, "z", rank=2)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_number_not_above_zero_is_refused(value):
    with pytest.raises(ValueError, match=r"tau must be above 0. Received: "):
        arguments.check_positive(value, "tau")
    arguments.check_positive(1e-9, "tau")


def test_an_unknown_word_is_refused():
    arguments.check_option("a", "letter", ("a", "b"))
    with pytest.raises(ValueError, match=r"letter must be one of a, b. Received: 'c'"):
        arguments.check_option("c", "letter", ("a", "b"))


def test_shapes_are_compared_as_far_as_they_are_known():
    arguments.check_same_shape(tf.zeros([2, 3]), tf.zeros([2, 3]), "x and y")
    with pytest.raises(ValueError, match=r"x and y .*Received: \(2, 3\) and \(3, 2\)"):
        arguments.check_same_shape(tf.zeros([2, 3]), tf.zeros([3, 2]), "x and y")


def test_a_batch_of_unknown_size_passes():
    seen = []

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def trace(rows):
        arguments.check_block(rows, rows, 0)
        seen.append(rows.shape)
        return rows

    trace(tf.zeros([5, 3]))
    assert seen == [tf.TensorShape([None, 3])]


@pytest.mark.parametrize(
    ("local", "pool", "first_row"),
    [
        ((2, 3), None, 1),
        ((2, 3), (4, 5), 0),
        ((4, 3), (2, 3), 0),
        ((2, 3), (4, 3), 3),
        ((2, 3), (4, 3), -1),
    ],
)
def test_a_block_outside_the_candidates_is_refused(local, pool, first_row):
    rows = None if pool is None else tf.zeros(pool)
    with pytest.raises(ValueError, match=r"Received: "):
        arguments.check_block(tf.zeros(local), rows, first_row)


def test_a_block_inside_the_candidates_passes():
    arguments.check_block(tf.zeros([2, 3]), tf.zeros([4, 3]), 2)
    arguments.check_block(tf.zeros([2, 3]), tf.zeros([4, 3]), tf.constant(7))
    arguments.check_block(tf.zeros([2, 3]), None, tf.constant(0))
