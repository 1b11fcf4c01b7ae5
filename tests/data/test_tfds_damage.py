"""Damaged records of a prepared data set: nobody moves, they are named, too many stop the run."""

import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tfcontrast.augment import ViewRecipe
from tfcontrast.data import eval_dataset, open_source, plain_errors, train_dataset
from tfcontrast.errors import UserError

COUNT = 12
IMAGES = np.random.default_rng(0).integers(0, 255, [COUNT, 6, 4, 3], np.uint8)
LABELS = np.arange(COUNT) * 2 % 3


def store(folder, bad):
    """Prepares a data set and spoils the images of some records; `flip`: their checksums."""
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(6, 4, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
    )
    rows = [{"image": i, "label": n} for i, n in zip(IMAGES, LABELS, strict=True)]
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(rows), output_signature=features.get_tensor_spec()
    )
    tfds.dataset_builders.store_as_tfds_dataset(
        name="toy", version="1.0.0", features=features, split_datasets={"train": dataset},
        data_dir=str(folder), disable_shuffling=True,
    )  # fmt: skip
    (path,) = (folder / "toy" / "1.0.0").glob("*.tfrecord*")
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for place, record in enumerate(records):
            example = tf.train.Example.FromString(record)
            image = example.features.feature["image"].bytes_list.value
            if bad.get(place) == "cut":
                image[0] = image[0][:50]
            elif bad.get(place) == "bomb":
                sides = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
                body = b"IHDR" + sides
                image[0] = (
                    image[0][:12] + body + struct.pack(">I", zlib.crc32(body)) + image[0][33:]
                )
            writer.write(example.SerializeToString())
    data = bytearray(path.read_bytes())
    for place, kind in bad.items():
        if kind == "flip":
            at = sum(16 + len(record) for record in records[:place])
            data[at + 40] ^= 1
    path.write_bytes(data)
    return str(folder)


def shown(source, steps=9):
    recipe = (ViewRecipe(image_size=4),)
    batches = train_dataset(source, recipe, batch_size=4, seed=0, jit_compile=False).take(steps)
    return np.concatenate([batch["index"] for batch in batches])


@pytest.mark.parametrize("limit", [0, 2**31])
def test_damaged_records_keep_their_places(tmp_path, limit, caplog):
    spoilt = {2: "cut", 3: "bomb", 7: "flip"}
    folder = store(tmp_path / "spoilt", spoilt)
    whole = store(tmp_path / "whole", {})
    options = {"memory_limit": limit, "max_bad_images": 0.25}
    source = open_source("toy", "train", data_dir=folder, **options)
    assert (source.images is None) == (limit == 0)
    assert source.num_classes == 3
    before = shown(open_source("toy", "train", data_dir=whole, **options))
    stand_ins = np.arange(COUNT)
    stand_ins[[2, 3, 7]] = [4, 4, 8]
    np.testing.assert_array_equal(shown(source), stand_ins[before])
    batches = list(eval_dataset(source, image_size=6, batch_size=5))
    places = np.concatenate([batch["index"] for batch in batches])
    np.testing.assert_array_equal(places, [0, 1, 4, 5, 6, 8, 9, 10, 11])
    labels = np.concatenate([batch["label"] for batch in batches])
    np.testing.assert_array_equal(labels, LABELS[places])
    names = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    text = "; ".join(names)
    assert text.count(" at byte ") == 3
    assert text.count("more than 178956970 pixels") == 1
    assert "left out 3 of 12 images in toy, train" in names[-1]


@pytest.mark.parametrize("limit", [0, 2**31])
def test_too_many_damaged_records_stop_in_one_line(tmp_path, limit):
    folder = store(tmp_path, {2: "cut", 3: "bomb", 7: "cut"})
    options = {"data_dir": folder, "memory_limit": limit, "max_bad_images": 0.2}
    message = r"3 of 12 images in toy, train cannot be read, .*=0\.2 "
    with pytest.raises(UserError, match=message), plain_errors():
        shown(open_source("toy", "train", **options))
