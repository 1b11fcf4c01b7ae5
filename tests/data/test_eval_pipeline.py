import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import eval_view
from tfcontrast.data import eval_dataset, plain_errors
from tfcontrast.errors import UserError

COUNT = 11
LABELS = np.arange(COUNT, dtype=np.int64) * 5 % 3


def assert_same(ours, others):
    for mine, other in zip(ours, others, strict=True):
        for key in mine:
            np.testing.assert_array_equal(mine[key], other[key])


@pytest.mark.parametrize("batch_size", [1, 4, 11, 50])
def test_evaluation_counts_every_example_once_and_in_order(kind, batch_size, toy_source):
    source = toy_source(kind)
    batches = list(eval_dataset(source, image_size=6, batch_size=batch_size))
    assert len(batches) == -(-COUNT // batch_size)
    np.testing.assert_array_equal(
        np.concatenate([batch["index"] for batch in batches]), np.arange(COUNT)
    )
    np.testing.assert_array_equal(np.concatenate([batch["label"] for batch in batches]), LABELS)
    images = np.concatenate([batch["image"] for batch in batches])
    assert images.dtype == np.float32
    size = [None, None] if kind == "many_sizes" else [9, 7]
    one = tf.function(
        lambda image: eval_view(image[None], image_size=6)[0],
        [tf.TensorSpec([*size, 3], tf.uint8)],
    )
    for i in range(COUNT):
        expected = one(source.load(tf.constant(i, tf.int64)))
        np.testing.assert_allclose(images[i], expected, atol=1e-6)


def test_evaluation_passes_the_crop_on_and_does_not_depend_on_threads(kind, toy_source):
    def images(**options):
        return list(eval_dataset(toy_source(kind), image_size=40, batch_size=3, **options))

    assert_same(images(), images(num_parallel_calls=1))
    whole, cut = images(crop_fraction=1.0)[0]["image"], images(crop_fraction=0.5)[0]["image"]
    assert np.abs(whole - cut).max() > 0.01


def test_evaluation_leaves_images_of_the_right_size_alone(toy_source):
    source = toy_source("resident")
    cut = np.ascontiguousarray(source.images[:, :7])
    source = dataclasses.replace(source, images=cut)
    (batch,) = eval_dataset(source, image_size=7, batch_size=COUNT)
    np.testing.assert_allclose(batch["image"], cut / 255.0, atol=1e-7)


def joined(dataset):
    batches = list(dataset)
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def test_bad_images_are_left_out_and_every_good_one_counts_once(kind, toy_source):
    source = toy_source(kind)
    everything = joined(eval_dataset(source, image_size=6, batch_size=4))
    bad = np.isin(np.arange(COUNT), [0, 3, 4, 10])
    got = joined(eval_dataset(dataclasses.replace(source, bad=bad), image_size=6, batch_size=4))
    for key, values in got.items():
        np.testing.assert_array_equal(values, everything[key][~bad])
    with pytest.raises(UserError, match="none of the 11 images of toy can be read"):
        eval_dataset(
            dataclasses.replace(source, bad=np.ones(COUNT, bool)), image_size=6, batch_size=4
        )


@pytest.mark.parametrize("kind", ["one_size", "many_sizes"])
def test_images_that_go_bad_later_are_left_out_and_named_once(kind, toy_source, caplog):
    def read(index):
        good = (index != 3) & (index != 7)
        with tf.control_dependencies([tf.debugging.Assert(good, ["cut short"])]):
            return tf.identity(index)

    source = toy_source(kind, read)
    source.bad_images._limit = 0.2
    dataset = eval_dataset(source, image_size=6, batch_size=4)
    for _ in range(2):
        got = joined(dataset)
        np.testing.assert_array_equal(got["index"], [0, 1, 2, 4, 5, 6, 8, 9, 10])
        np.testing.assert_array_equal(got["label"], LABELS[got["index"]])
    assert caplog.text.count("cut short") == 2
    again = toy_source(kind, read)
    again.bad_images._limit = 0.1
    with (
        pytest.raises(UserError, match=r"2 of 11 images in toy, train cannot be read"),
        plain_errors(),
    ):
        list(eval_dataset(again, image_size=6, batch_size=4))


def test_every_place_has_a_row_where_the_next_good_image_stands_in(kind, toy_source):
    source = toy_source(kind)
    everything = joined(eval_dataset(source, image_size=6, batch_size=4))
    bad = np.isin(np.arange(COUNT), [0, 3, 4, 10])
    source = dataclasses.replace(source, bad=bad)
    got = joined(eval_dataset(source, image_size=6, batch_size=4, every_place=True))
    np.testing.assert_array_equal(got["index"], [1, 1, 2, 5, 5, 5, 6, 7, 8, 9, 1])
    for key, values in got.items():
        np.testing.assert_array_equal(values, everything[key][got["index"]])


@pytest.mark.parametrize("kind", ["one_size", "many_sizes"])
def test_images_that_go_bad_later_have_stand_ins_too_and_are_named_once(kind, toy_source, caplog):
    def read(index):
        with tf.control_dependencies([tf.debugging.Assert(index != 3, ["cut short"])]):
            return tf.identity(index)

    source = toy_source(kind, read)
    source.bad_images._limit = 0.2
    dataset = eval_dataset(source, image_size=6, batch_size=4, every_place=True)
    for _ in range(2):
        got = joined(dataset)
        np.testing.assert_array_equal(got["index"], [0, 1, 2, 4, 4, 5, 6, 7, 8, 9, 10])
        np.testing.assert_array_equal(got["label"], LABELS[got["index"]])
    assert caplog.text.count("cut short") == 1


def test_a_batch_size_must_be_positive(toy_source):
    with pytest.raises(ValueError, match="batch_size"):
        eval_dataset(toy_source("resident"), image_size=8, batch_size=0)
