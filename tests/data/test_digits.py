import zlib

import numpy as np
import pytest

from tfcontrast.data import open_source
from tfcontrast.errors import UserError


def test_split_is_fixed_for_ever():
    train, test = open_source("digits", "train"), open_source("digits", "test", seed=5)
    assert (train.num_examples, test.num_examples) == (1438, 359)
    # Checksums of this implementation's split; another value means that published numbers are void.
    assert zlib.crc32(train.labels.tobytes()) == TRAIN_LABELS
    assert zlib.crc32(test.labels.tobytes()) == TEST_LABELS
    assert zlib.crc32(test.images.tobytes()) == TEST_IMAGES


TRAIN_LABELS = 2940983259
TEST_LABELS = 2949604142
TEST_IMAGES = 1531274922


def test_train_and_test_are_the_whole_set_and_stratified():
    from sklearn.datasets import load_digits

    digits = load_digits()
    parts = [open_source("digits", split) for split in ("train", "test")]
    rows = [
        (*np.round(image[:, :, 0] / 255.0 * 16.0).astype(int).ravel(), label)
        for part in parts
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    expected = [
        (*image.astype(int).ravel(), label)
        for image, label in zip(digits.images, digits.target, strict=True)
    ]
    assert sorted(rows) == sorted(expected)
    share = np.bincount(parts[1].labels) / np.bincount(digits.target)
    np.testing.assert_allclose(share, 0.2, atol=1 / 170)


def test_images_are_grey_rgb_over_the_whole_range():
    source = open_source("digits", "train")
    assert source.images.shape == (1438, 8, 8, 3)
    assert source.images.dtype == np.uint8
    assert (source.images.min(), source.images.max()) == (0, 255)
    assert (source.images == source.images[..., :1]).all()
    assert (source.num_classes, source.class_names[7], source.image_shape) == (10, "7", (8, 8))


def test_unknown_split_names_the_splits():
    with pytest.raises(UserError, match=r"train, test.*Received: 'validation'"):
        open_source("digits", "validation")
