import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import ViewRecipe
from tfcontrast.data import plain_errors, train_dataset
from tfcontrast.data.reading import make_reader, stand_ins
from tfcontrast.errors import UserError

COUNT, BATCH = 11, 4
LABELS = np.arange(COUNT, dtype=np.int64) * 5 % 3
RECIPES = (ViewRecipe(image_size=5, flip_probability=0.5),)


def train(source, bad=None, steps=8):
    if bad is not None:
        source = dataclasses.replace(source, bad=bad)
    dataset = train_dataset(source, RECIPES, batch_size=BATCH, seed=3, jit_compile=False)
    return list(dataset.take(steps))


def broken(*places):
    """Reading one of these images fails."""

    def read(index):
        good = ~tf.reduce_any(index == tf.constant(places, tf.int64))
        with tf.control_dependencies([tf.debugging.Assert(good, ["cut short"])]):
            return tf.identity(index)

    return read


def test_the_next_good_image_stands_in_and_nobody_else_moves(kind, toy_source):
    bad = np.isin(np.arange(COUNT), [3, 4, 10])
    expected = {3: 5, 4: 5, 10: 0}
    got = train(toy_source(kind), bad)
    same = 0
    for ours, before in zip(got, train(toy_source(kind)), strict=True):
        index = [int(i) for i in before["index"]]
        np.testing.assert_array_equal(ours["index"], [expected.get(i, i) for i in index])
        np.testing.assert_array_equal(ours["label"], LABELS[ours["index"]])
        for row, i in enumerate(index):
            if i not in expected:
                same += 1
                for view, other in zip(ours["views"], before["views"], strict=True):
                    np.testing.assert_array_equal(view[row], other[row])
    assert 0 < same < 8 * BATCH


@pytest.mark.parametrize("kind", ["one_size", "many_sizes"])
def test_images_that_go_bad_later_move_nobody_too(kind, toy_source, caplog):
    source = toy_source(kind, broken(3, 4, 10))
    source.bad_images._limit = 0.5
    got = train(source)
    known = train(toy_source(kind), np.isin(np.arange(COUNT), [3, 4, 10]))
    for ours, others in zip(got, known, strict=True):
        for left, right in zip(tf.nest.flatten(ours), tf.nest.flatten(others), strict=True):
            np.testing.assert_array_equal(left, right)
    told = [record.getMessage() for record in caplog.records]
    for place in (3, 4, 10):  # each once
        assert sum(f"image {place} (cut short)" in line for line in told) == 1
    assert told[-1].startswith("left out 3 of 11 images in toy, train: ")


@pytest.mark.parametrize("kind", ["one_size", "many_sizes"])
def test_too_many_that_go_bad_stop_in_one_line(kind, toy_source):
    source = toy_source(kind, broken(*range(3, 9)))
    source.bad_images._limit = 0.2  # 2 images
    with (
        pytest.raises(UserError, match=r"of 11 images .* cannot be read, .*=0\.2 .*cut short"),
        plain_errors(),
    ):
        train(source, steps=30)


def test_when_nothing_can_be_read_any_more_it_stops(toy_source):
    source = toy_source("many_sizes", broken(*range(COUNT)))
    source.bad_images._limit = 1.0
    with (
        pytest.raises(UserError, match=r"11 of 11 images in toy, train cannot be read"),
        plain_errors(),
    ):
        train(source)


def test_only_as_many_are_tried_as_may_be_bad(toy_source):
    """A disk that is gone must not be asked for every image of a large data set."""
    tried = []

    def fail(index):
        tried.append(int(index))
        raise OSError("gone")

    source = toy_source(
        "one_size", lambda i: tf.ensure_shape(tf.numpy_function(fail, [i], tf.int64), [])
    )
    source.bad_images._limit = 0.3
    (element,) = make_reader(source)(tf.constant(9, tf.int64), tf.constant(7))
    assert tried == [9, 10, 0, 1]
    assert [int(part) for part in element[1:]] == [-1, -1, 7]


def test_stand_ins_stay_in_their_part_of_the_source(toy_source):
    bad = np.isin(np.arange(COUNT), [2, 3, 9])
    source = dataclasses.replace(toy_source("many_sizes"), bad=bad)
    assert stand_ins(source).tolist() == [0, 1, 4, 4, 4, 5, 6, 7, 8, 10, 10]
    part = source.subset(np.array([1, 2, 5, 9]))
    assert stand_ins(part).tolist() == [0, 2, 2, 0]  # of the part's own four
    assert stand_ins(part.subset(np.array([0, 2]))) is None
    for batch in train_dataset(part, RECIPES, batch_size=4, seed=0, jit_compile=False).take(2):
        assert set(batch["index"].numpy()) == {0, 2}
