import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.data import Source, split_holdout, stratified_split
from tfcontrast.errors import UserError


def resident(count=10, classes=2):
    images = np.arange(count * 12, dtype=np.uint8).reshape(count, 2, 2, 3)
    labels = np.arange(count, dtype=np.int64) % classes
    return Source(
        name="toy",
        split="train",
        num_examples=count,
        num_classes=classes,
        images=images,
        labels=labels,
    )


def streamed(count=10, labels=None):
    def read(index):
        image = tf.fill([3, 2, 3], tf.cast(index, tf.uint8))
        return image, index * 7

    return Source(
        name="toy", split="train", num_examples=count, num_classes=70, read=read, labels=labels
    )


def test_resident_and_streamed_examples_are_reached_by_index():
    source = resident()
    image, label = source.example(tf.constant(3, tf.int64))
    np.testing.assert_array_equal(image, source.images[3])
    assert int(label) == 1
    np.testing.assert_array_equal(source.load(tf.constant(9, tf.int64)), source.images[9])
    np.testing.assert_array_equal(streamed().load(tf.constant(4, tf.int64)), np.full((3, 2, 3), 4))


def test_a_part_knows_its_bad_images_and_where_they_come_from():
    bad = np.isin(np.arange(10), [0, 4, 5])
    for make in (resident, streamed):
        source = dataclasses.replace(make(), bad=bad)
        assert (source.num_examples, source.num_good) == (10, 7)
        assert source.good.tolist() == [1, 2, 3, 6, 7, 8, 9]
        part = source.subset(np.array([5, 6, 4, 9])).subset(np.array([3, 2, 1]))
        assert part.origins.tolist() == [9, 4, 6]
        assert part.bad.tolist() == [False, True, False]
        assert part.bad_images is source.bad_images
        for piece, other in zip(
            split_holdout(source, 0.3), split_holdout(make(), 0.3), strict=True
        ):
            np.testing.assert_array_equal(piece.origins, other.origins)
            np.testing.assert_array_equal(piece.bad, bad[piece.origins])
        with pytest.raises(ValueError, match="Received: 9"):
            dataclasses.replace(source, bad=bad[1:])


def test_labels_are_read_around_a_broken_record():
    def read(index):
        with tf.control_dependencies([tf.debugging.Assert(index % 40 != 3, ["broken"])]):
            return tf.zeros([1, 1, 3], tf.uint8), index * 7

    source = Source(name="toy", split="train", num_examples=100, num_classes=700, read=read)
    places = np.arange(100)
    expected = np.where(places % 40 == 3, -1, places * 7)
    np.testing.assert_array_equal(source.read_labels(), expected)


def test_image_shape_follows_resident_images():
    assert resident().image_shape == (2, 2)
    assert streamed().image_shape is None


def test_labels_of_a_streamed_source_are_read_in_order():
    np.testing.assert_array_equal(streamed(5000).read_labels(), np.arange(5000) * 7)
    known = np.arange(10)
    np.testing.assert_array_equal(streamed(labels=known).read_labels(), known)


@pytest.mark.parametrize("make", [resident, streamed])
def test_subset_maps_example_i_to_indices_i(make):
    source = make()
    indices = [7, 0, 3, 3]
    part = source.subset(np.array(indices))
    twice = part.subset(np.array([2, 0]))
    assert (part.num_examples, twice.num_examples) == (4, 2)
    assert part.num_classes == source.num_classes
    for place, index in [*enumerate(indices)]:
        got, expected = (
            s.example(tf.constant(i, tf.int64)) for s, i in ((part, place), (source, index))
        )
        np.testing.assert_array_equal(got[0], expected[0])
        assert int(got[1]) == int(expected[1])
    assert int(twice.example(tf.constant(1, tf.int64))[1]) == int(
        source.example(tf.constant(7, tf.int64))[1]
    )
    np.testing.assert_array_equal(part.read_labels(), source.read_labels()[indices])


@pytest.mark.parametrize("indices", [[], [10], [-1], [0.5], [[1]]])
def test_subset_refuses_what_is_no_index(indices):
    with pytest.raises(ValueError, match="Received"):
        resident().subset(np.array(indices))


@pytest.mark.parametrize(
    "change",
    [
        {"images": None},
        {"labels": None},
        {"num_examples": 9},
        {"images": np.zeros([10, 2, 2, 1], np.uint8)},
        {"images": np.zeros([10, 2, 2, 3], np.float32)},
        {"labels": np.zeros([9], np.int64)},
    ],
)
def test_inconsistent_sources_are_refused(change):
    good = {
        "name": "toy",
        "split": "train",
        "num_examples": 10,
        "num_classes": 2,
        "images": np.zeros([10, 2, 2, 3], np.uint8),
        "labels": np.zeros([10], np.int64),
    }
    with pytest.raises(ValueError, match="Received"):
        Source(**(good | change))


@pytest.mark.parametrize("fraction", [0.02, 0.25, 0.5, 0.9])
def test_stratified_split_is_a_partition_with_exact_shares(fraction):
    labels = np.repeat([0, 1, 2, 7], [50, 100, 7, 43])
    rest, held_out = stratified_split(labels, fraction, seed=3)
    assert sorted([*rest, *held_out]) == list(range(200))
    assert len(held_out) == round(200 * fraction)
    assert (np.diff(rest) > 0).all()
    assert (np.diff(held_out) > 0).all()
    for label, count in ((0, 50), (1, 100), (2, 7), (7, 43)):
        assert abs(np.sum(labels[held_out] == label) - fraction * count) < 1.0


def test_stratified_split_never_changes_and_follows_the_seed():
    labels = np.arange(40) % 4
    # Golden value of this implementation: a change would move examples between train and test.
    assert stratified_split(labels, 0.2, seed=0)[1].tolist() == GOLDEN
    splits = {tuple(stratified_split(labels, 0.2, seed=seed)[1]) for seed in (0, 1, -1, 2**64 + 5)}
    assert len(splits) == 4


GOLDEN = [2, 3, 11, 13, 18, 20, 21, 32]


def test_within_a_class_every_example_is_equally_likely():
    labels = np.arange(20) % 2
    counts = np.zeros(20)
    for seed in range(400):
        counts[stratified_split(labels, 0.3, seed=seed)[1]] += 1
    # 400 draws with p = 0.3: standard deviation 9.2; five of them bound 20 cells with ease.
    assert np.abs(counts - 120).max() < 46


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_neither_side_of_a_split_is_empty(fraction):
    rest, held_out = stratified_split(np.zeros(5, int), fraction, seed=0)
    assert {len(rest), len(held_out)} == {1, 4}


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_outside_the_unit_interval_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        stratified_split(np.zeros(5, int), fraction, seed=0)


def test_holdout_keeps_order_and_pairs_of_image_and_label():
    source = resident(20)
    rest, held_out = split_holdout(source, 0.2, seed=1)
    assert (rest.num_examples, held_out.num_examples) == (16, 4)
    assert np.bincount(held_out.labels).tolist() == [2, 2]
    first = source.images[:, 0, 0, 0].astype(int)
    both = np.concatenate([rest.images, held_out.images])[:, 0, 0, 0]
    assert sorted(both) == sorted(first)
    label_of = dict(zip(first, source.labels, strict=True))
    for part in (rest, held_out):
        values = part.images[:, 0, 0, 0].astype(int)
        assert (np.diff(values) > 0).all()
        assert [label_of[value] for value in values] == part.labels.tolist()


def test_holdout_of_a_streamed_source_without_known_labels():
    rest, held_out = split_holdout(streamed(50), 0.1, seed=1)
    assert (rest.num_examples, held_out.num_examples) == (45, 5)
    assert sorted([*rest.read_labels(), *held_out.read_labels()]) == [7 * i for i in range(50)]


def test_one_example_cannot_be_held_out_from():
    with pytest.raises(UserError, match="toy"):
        split_holdout(resident(1), 0.5)
