import logging
import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tfcontrast.data import open_source, source_splits
from tfcontrast.errors import UserError

RNG = np.random.default_rng(0)


def store(folder, name, features, rows, *, version="1.0.0"):
    """Prepares a data set on disk; rows: split -> list of examples."""
    info = tfds.features.FeaturesDict(features)
    spec = info.get_tensor_spec()

    def dataset(examples):
        return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=spec)

    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version=version,
        features=info,
        split_datasets={split: dataset(examples) for split, examples in rows.items()},
        data_dir=folder,
        disable_shuffling=True,
    )


def pictures(count, shape=(6, 4, 3), dtype=np.uint8):
    top = np.iinfo(dtype).max
    return [RNG.integers(0, top, shape, dtype, endpoint=True) for _ in range(count)]


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """`toy`: 40 and 5 images of one size; id and mask beside image and label."""
    folder = str(tmp_path_factory.mktemp("tfds"))
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(6, 4, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=["cat", "dog", "eel"]),
        "mask": tfds.features.LabeledImage(labels=2, shape=(6, 4, 1), encoding_format="png"),
    }
    rows = {
        split: [
            {
                "id": str(i),
                "image": image,
                "label": (i * 2) % 3,
                "mask": np.zeros((6, 4, 1), np.uint8),
            }
            for i, image in enumerate(pictures(count))
        ]
        for split, count in (("train", 40), ("test", 5))
    }
    store(folder, "toy", features, rows)
    return folder, rows


def check(source, rows):
    assert source.num_examples == len(rows)
    examples = tf.data.Dataset.range(len(rows)).map(source.example, num_parallel_calls=3)
    for (image, label), row in zip(examples, rows, strict=True):
        assert image.dtype == tf.uint8
        np.testing.assert_array_equal(image, row["image"])
        assert int(label) == row["label"]


@pytest.mark.parametrize("limit", [0, 2**31])
@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ("train", [("train", 0, 40)]),
        ("test", [("test", 0, 5)]),
        ("train[:90%]", [("train", 0, 36)]),
        ("train[25%:-10%]", [("train", 10, 36)]),
        ("test+train[30:]", [("test", 0, 5), ("train", 30, 40)]),
    ],
)
def test_both_ways_of_reading_give_the_order_of_the_files(fixed, split, parts, limit, caplog):
    folder, rows = fixed
    source = open_source("toy", split, data_dir=folder, memory_limit=limit)
    assert "deprecated" not in caplog.text
    expected = [row for name, begin, end in parts for row in rows[name][begin:end]]
    check(source, expected)
    assert (source.images is None) == (limit == 0)
    assert (source.labels is None) == (limit == 0)
    np.testing.assert_array_equal(source.read_labels(), [row["label"] for row in expected])
    assert source.class_names == ("cat", "dog", "eel")
    assert (source.num_classes, source.image_shape) == (3, (6, 4))


def test_the_limit_is_on_decoded_bytes(fixed):
    folder, _ = fixed
    size = 40 * 6 * 4 * 3
    assert open_source("toy", "train", data_dir=folder, memory_limit=size).images is not None
    assert open_source("toy", "train", data_dir=folder, memory_limit=size - 1).images is None


def test_many_files_keep_their_order(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(2, 2, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=100),
    }
    rows = [{"image": image, "label": i} for i, image in enumerate(pictures(50, (2, 2, 3)))]
    store(str(tmp_path), "many", features, {"train": rows})
    (old,) = (tmp_path / "many" / "1.0.0").glob("*.tfrecord*")
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(old))]
    counts = [7, 0, 30, 13]
    old.unlink()
    done = 0
    for number, count in enumerate(counts):
        name = f"many-train.tfrecord-{number:05}-of-00004"
        with tf.io.TFRecordWriter(str(old.parent / name)) as writer:
            for record in records[done : done + count]:
                writer.write(record)
        done += count
    text = (old.parent / "dataset_info.json").read_text()
    assert '"50"' in text
    lengths = ", ".join(f'"{count}"' for count in counts)
    start = text.index('"shardLengths": [')
    end = text.index("]", start)
    text = text[:start] + f'"shardLengths": [{lengths}' + text[end:]
    (old.parent / "dataset_info.json").write_text(text)
    for limit in (0, 2**31):
        source = open_source("many", "train", data_dir=str(tmp_path), memory_limit=limit)
        check(source, rows)
        part = open_source("many", "train[5:40]", data_dir=str(tmp_path), memory_limit=limit)
        check(part, rows[5:40])


def test_images_of_many_sizes_are_streamed(tmp_path):
    features = {
        "picture": tfds.features.Image(encoding_format="png"),
        "kind": tfds.features.ClassLabel(num_classes=4),
    }
    rows = [{"picture": pictures(1, (3 + i, 9 - i, 3))[0], "kind": 3 - i % 4} for i in range(6)]
    store(str(tmp_path), "sizes", features, {"train": rows})
    source = open_source("sizes", "train", data_dir=str(tmp_path))
    assert source.images is None
    assert (source.num_classes, source.image_shape) == (4, None)
    check(source, [{"image": row["picture"], "label": row["kind"]} for row in rows])


@pytest.mark.parametrize("limit", [0, 2**31])
@pytest.mark.parametrize(
    ("shape", "dtype"), [((5, 5, 1), np.uint8), ((5, 5, 4), np.uint8), ((5, 5, 3), np.uint16)]
)
def test_other_channels_and_depths_become_rgb(tmp_path, shape, dtype, limit):
    features = {"image": tfds.features.Image(shape=shape, dtype=dtype, encoding_format="png")}
    images = pictures(4, shape, dtype)
    store(str(tmp_path), "other", features, {"train": [{"image": image} for image in images]})
    source = open_source("other", "train", data_dir=str(tmp_path), memory_limit=limit)
    if dtype == np.uint16:
        expected = [np.round(image / 257.0) for image in images]
    elif shape[2] == 4:
        share = [image[..., 3:] / 255.0 for image in images]
        expected = [
            np.round(image[..., :3] * a + 255.0 * (1.0 - a))
            for image, a in zip(images, share, strict=True)
        ]
    else:
        expected = [np.repeat(image, 3, axis=-1) for image in images]
    assert source.num_classes == 0
    check(source, [{"image": image, "label": -1} for image in expected])


@pytest.mark.parametrize("limit", [0, 2**31])
def test_a_split_without_labels_is_unlabelled(tmp_path, limit):
    features = {
        "image": tfds.features.Image(shape=(2, 2, 3), encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=10),
    }
    rows = {
        "train": [{"image": image, "label": 9} for image in pictures(3, (2, 2, 3))],
        "unlabelled": [{"image": image, "label": -1} for image in pictures(3, (2, 2, 3))],
    }
    store(str(tmp_path), "half", features, rows)
    open_half = lambda split: open_source(  # noqa: E731
        "half", split, data_dir=str(tmp_path), memory_limit=limit
    )
    assert open_half("train").num_classes == 10
    source = open_half("unlabelled")
    assert (source.num_classes, source.class_names) == (0, ())
    np.testing.assert_array_equal(source.labels, [-1, -1, -1])


def test_which_label_counts(tmp_path, caplog):
    image = tfds.features.Image(shape=(2, 2, 3), encoding_format="png")
    label = tfds.features.ClassLabel(num_classes=5)
    caplog.set_level(logging.WARNING)
    for name, keys, classes in (
        ("coarse", ("label", "rough"), 5),
        ("single", ("kind",), 5),
        ("several", ("first", "second"), 0),
    ):
        row = {"image": pictures(1, (2, 2, 3))[0], **dict.fromkeys(keys, 3)}
        features = {"image": image, **dict.fromkeys(keys, label)}
        store(str(tmp_path), name, features, {"train": [row]})
        assert open_source(name, "train", data_dir=str(tmp_path)).num_classes == classes
    assert "several has several labels (first, second)" in caplog.text


def test_data_sets_without_a_usable_image_are_refused(tmp_path):
    image = tfds.features.Image(shape=(2, 2, 3), encoding_format="png")
    depth = tfds.features.Image(shape=(2, 2, 1), dtype=np.float32, encoding_format="png")
    cases = (
        ("text", {"label": tfds.features.ClassLabel(num_classes=5)}, {"label": 1}, "none"),
        ("pair", {"a": image, "b": image}, dict.fromkeys("ab", pictures(1, (2, 2, 3))[0]), "a, b"),
        ("depth", {"image": depth}, {"image": np.zeros((2, 2, 1), np.float32)}, "float32"),
    )
    for name, features, row, message in cases:
        store(str(tmp_path), name, features, {"train": [row]})
        with pytest.raises(UserError, match=message):
            open_source(name, "train", data_dir=str(tmp_path))


def test_versions(tmp_path):
    features = {"image": tfds.features.Image(shape=(2, 2, 3), encoding_format="png")}
    for version, count in (("1.0.0", 2), ("1.2.0", 3)):
        rows = [{"image": image} for image in pictures(count, (2, 2, 3))]
        store(str(tmp_path), "toy", features, {"train": rows}, version=version)
    for name, n in (("toy", 3), ("toy:1.0.0", 2), ("toy:1.*.*", 3)):
        assert open_source(name, "train", data_dir=str(tmp_path)).num_examples == n
    with pytest.raises(UserError, match=r"toy:3\.0\.0 is not"):
        open_source("toy:3.0.0", "train", data_dir=str(tmp_path))


def test_absent_and_unknown_data_sets_are_one_line_and_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(tfds, "builder", None)  # the one that may download
    folder = str(tmp_path / "nowhere")
    for name, message in (
        ("cifar100", rf"cifar100 is not prepared in {folder}; .*--download.*--data_dir"),
        ("imagenet_resized/32x32", "imagenet_resized/32x32 is not prepared"),
        ("cifar10:3.0.2", "is not prepared"),
        ("cifar1O", r"cifar1O is not known .*did you mean cifar10"),
        ("no_such_thing", "no_such_thing is not known"),
        ("huggingface:mnist", "huggingface:mnist is not known"),
        ("two words", "Received: 'two words'"),
        ("", "Received: ''"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            open_source(name, "train", data_dir=folder)
        assert "\n" not in str(caught.value)
    assert not os.path.exists(folder)


def test_the_environment_names_the_folder(fixed, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", fixed[0])
    for data_dir in (None, ""):
        check(open_source("toy", "test", data_dir=data_dir), fixed[1]["test"])


def test_download_prepares_what_is_absent_and_only_that(fixed, tmp_path, monkeypatch):
    folder, rows = fixed
    asked = []

    class Builder:
        def __init__(self, name, data_dir, **kwargs):
            self.name, self.data_dir = name, data_dir

        def download_and_prepare(self):
            asked.append((self.name, self.data_dir))
            raise ConnectionError("no route to host\nmore about it")

    monkeypatch.setattr(tfds, "builder", Builder)
    check(open_source("toy", "test", data_dir=folder, download=True), rows["test"])
    assert not asked
    with pytest.raises(UserError, match=r"cifar100 --download: .*: no route to host$"):
        open_source("cifar100", "train", data_dir=str(tmp_path), download=True)
    assert asked == [("cifar100", str(tmp_path))]


@pytest.mark.parametrize(
    "split", ["validation", "", "train[:x%]", "train[:300%]", "train[5:3]", "train[:0]", "train["]
)
def test_unknown_splits_name_those_that_exist(fixed, split):
    with pytest.raises(UserError, match=r"has the splits train, test") as caught:
        open_source("toy", split, data_dir=fixed[0])
    assert repr(split) in str(caught.value)
    assert source_splits("toy", data_dir=fixed[0]) == ("train", "test")


@pytest.mark.parametrize("limit", [0, 2**31])
@pytest.mark.parametrize("damage", ["missing", "short"])
def test_damaged_files_are_named(tmp_path, limit, damage):
    features = {"image": tfds.features.Image(shape=(2, 2, 3), encoding_format="png")}
    rows = [{"image": image} for image in pictures(9, (2, 2, 3))]
    store(str(tmp_path), "broken", features, {"train": rows})
    (file,) = (tmp_path / "broken").rglob("*.tfrecord*")
    data = file.read_bytes()
    file.unlink()
    if damage == "short":
        file.write_bytes(data[:-20])
    with pytest.raises(UserError, match=r"broken/1\.0\.0.*prepare the data set again"):
        open_source("broken", "train", data_dir=str(tmp_path), memory_limit=limit)
