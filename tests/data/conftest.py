"""Small sources of the three kinds: in memory, read one by one, read in many sizes."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.data import Source

COUNT = 11
IMAGES = np.random.default_rng(0).integers(0, 255, [COUNT, 9, 7, 3], np.uint8, endpoint=True)
LABELS = np.arange(COUNT, dtype=np.int64) * 5 % 3


def resident(read=None):
    return Source(
        name="toy", split="train", num_examples=COUNT, num_classes=3, images=IMAGES, labels=LABELS
    )


def one_size(read=lambda index: index):
    """Read one by one, all images of one size."""
    images, labels = tf.constant(IMAGES), tf.constant(LABELS)

    def example(index):
        index = read(index)
        return images[index], labels[index]

    return Source(
        name="toy", split="train", num_examples=COUNT, num_classes=3, image_shape=(9, 7),
        read=example,
    )  # fmt: skip


def many_sizes(read=lambda index: index):
    """Read one by one; image i has i rows less at the bottom, up to 4."""
    images, labels = tf.constant(IMAGES), tf.constant(LABELS)

    def example(index):
        index = read(index)
        image = images[index][: 9 - tf.cast(index % 5, tf.int32)]
        return tf.ensure_shape(image, [None, None, 3]), labels[index]

    return Source(name="toy", split="train", num_examples=COUNT, num_classes=3, read=example)


@pytest.fixture(params=["resident", "one_size", "many_sizes"])
def kind(request):
    return request.param


@pytest.fixture(scope="session")
def toy_source():
    """A function of the kind; `read` stands before every read of an index, in the graph."""
    kinds = {"resident": resident, "one_size": one_size, "many_sizes": many_sizes}
    return lambda kind, *read: kinds[kind](*read)
