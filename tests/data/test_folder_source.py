import logging
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfcontrast.data import open_source, source_splits
from tfcontrast.errors import UserError


def write(path, value, size=(5, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def values(source):
    """The grey value of every example, read one by one."""
    return [int(source.load(tf.constant(i, tf.int64))[0, 0, 0]) for i in range(source.num_examples)]


def good_values(source):
    """The grey values of the good examples only."""
    return [int(source.load(tf.constant(i, tf.int64))[0, 0, 0]) for i in source.good]


@pytest.fixture
def classes(tmp_path):
    """train/ and val/ with classes a, b, c; value = 10 * class + place."""
    for number, name in enumerate("abc"):
        for place in range(4):
            write(tmp_path / "train" / name / f"{place}.png", 10 * number + place)
    write(tmp_path / "val" / "b" / "0.png", 100)
    write(tmp_path / "val" / "c" / "deep" / "er" / "0.png", 101)
    return tmp_path


def test_class_folders_of_both_splits_share_one_numbering(classes):
    train, test = (open_source(f"folder:{classes}", split) for split in ("train", "test"))
    assert source_splits(f"folder:{classes}") == ("train", "test", "val")
    assert train.class_names == test.class_names == ("a", "b", "c")
    assert (train.num_classes, train.num_examples) == (3, 12)
    assert values(train) == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    np.testing.assert_array_equal(train.labels, np.repeat([0, 1, 2], 4))
    assert values(test) == [100, 101]
    assert test.labels.tolist() == [1, 2]
    assert int(test.example(tf.constant(1, tf.int64))[1]) == 2
    np.testing.assert_array_equal(open_source(f"folder:{classes}", "val").labels, test.labels)


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_every_name_of_a_test_folder(tmp_path, name):
    write(tmp_path / "train" / "a" / "0.png", 1)
    write(tmp_path / name / "a" / "0.png", 2)
    assert values(open_source(f"folder:{tmp_path}", "test")) == [2]
    assert values(open_source(f"folder:{tmp_path}", name)) == [2]


def test_both_a_test_and_a_validation_folder(tmp_path):
    for value, name in enumerate(("train", "test", "validation")):
        write(tmp_path / name / "a" / "0.png", value)
    assert source_splits(f"folder:{tmp_path}") == ("train", "test", "validation")
    assert values(open_source(f"folder:{tmp_path}", "validation")) == [2]


@pytest.mark.parametrize("prefix", ["", "train"])
def test_a_tenth_is_the_test_split_when_there_is_no_test_folder(tmp_path, prefix):
    for number, name in enumerate("ab"):
        for place in range(20):
            write(tmp_path / prefix / name / f"{place:02}.png", 100 * number + place)
    train, test = (open_source(f"folder:{tmp_path}", split) for split in ("train", "test"))
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert train.num_examples == 36
    assert sorted(values(train) + values(test)) == [*range(20), *range(100, 120)]
    assert values(open_source(f"folder:{tmp_path}", "test")) == values(test)
    others = {tuple(values(open_source(f"folder:{tmp_path}", "test", seed=s))) for s in range(3)}
    assert len(others) == 3


def test_a_folder_without_classes_is_unlabelled(tmp_path):
    for place in range(10):
        write(tmp_path / f"{place}.png", place)
    source = open_source(f"folder:{tmp_path}", "train")
    assert (source.num_classes, source.class_names, source.num_examples) == (0, (), 9)
    np.testing.assert_array_equal(source.labels, np.full(9, -1))


def test_images_beside_class_folders_make_it_unlabelled_and_say_so(tmp_path, caplog):
    for place in range(6):
        write(tmp_path / "train" / "a" / f"{place}.png", place)
    write(tmp_path / "train" / "loose.png", 9)
    write(tmp_path / "test" / "a" / "0.png", 10)
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.num_classes == 0
    assert "loose.png" in caplog.text
    assert values(source) == [0, 1, 2, 3, 4, 5, 9]


def test_hidden_files_other_files_and_upper_case(tmp_path):
    write(tmp_path / "train" / "a" / "B.PNG", 1)
    write(tmp_path / "train" / "a" / "c.Jpeg", 2)
    write(tmp_path / "test" / "a" / "d.png", 3)
    (tmp_path / "train" / "a" / "._B.PNG").write_text("left by a file manager")
    (tmp_path / "train" / "a" / "notes.txt").write_text("notes")
    write(tmp_path / "train" / ".cache" / "e.png", 4)
    assert len(values(open_source(f"folder:{tmp_path}", "train", max_bad_images=0))) == 2


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere" / "0.png", 7)
    root = tmp_path / "root"
    write(root / "test" / "a" / "0.png", 8)
    (root / "train").mkdir()
    (root / "train" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(root / "train")
    assert values(open_source(f"folder:{root}", "train")) == [7]


def test_bad_images_are_named_left_out_and_move_nobody(tmp_path, caplog):
    for place in range(40):
        write(tmp_path / "a" / f"{place:02}.png", place)
    before = {s: values(open_source(f"folder:{tmp_path}", s)) for s in ("train", "test")}
    bad = before["train"][3], before["train"][20]
    (tmp_path / "a" / f"{bad[0]:02}.png").write_bytes(b"")
    (tmp_path / "a" / f"{bad[1]:02}.png").write_text("text")
    caplog.set_level(logging.WARNING)
    source = open_source(f"folder:{tmp_path}", "train", max_bad_images=0.06)
    assert [before["train"][place] for place in np.flatnonzero(source.bad)] == list(bad)
    assert good_values(source) == [value for value in before["train"] if value not in bad]
    assert (source.num_examples, source.num_good, len(source.labels)) == (36, 34, 36)
    line = caplog.records[-1].getMessage()
    assert f"a/{bad[0]:02}.png (empty file)" in line
    assert f"a/{bad[1]:02}.png (not an image" in line
    assert "2 of 36" in line
    assert values(open_source(f"folder:{tmp_path}", "test")) == before["test"]
    open_source(f"folder:{tmp_path}", "train", max_bad_images=0.06)
    assert caplog.text.count("left out") == 1  # named once in a process
    with pytest.raises(UserError, match=rf"2 of 36 .*max_bad_images=0\.05 .*a/{bad[0]:02}\.png"):
        open_source(f"folder:{tmp_path}", "train", max_bad_images=0.05)


def test_many_bad_images_are_counted_and_the_first_named(tmp_path):
    for place in range(30):
        path = tmp_path / "train" / f"{place:02}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_text("text")
    write(tmp_path / "test" / "0.png", 1)
    with pytest.raises(UserError, match=r"30 of 30 .* 00\.png .* 19\.png .*; and 10 more$"):
        open_source(f"folder:{tmp_path}", "train", max_bad_images=1.0)


def test_odd_images_are_read_as_the_decoder_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.effect_noise((12, 6), 40).convert("RGB")
    folder = tmp_path / "train" / "a"
    write(tmp_path / "test" / "a" / "0.png", 1)
    folder.mkdir(parents=True)
    picture.save(folder / "0.jpg")
    picture.save(folder / "1.jpg", exif=exif)
    picture.convert("CMYK").save(folder / "2.jpg")
    picture.convert("L").save(folder / "3.jpg")
    picture.convert("RGBA").save(folder / "4.webp", lossless=True)
    source = open_source(f"folder:{tmp_path}", "train")
    images = [
        image.numpy() for image in tf.data.Dataset.range(5).map(source.load, num_parallel_calls=3)
    ]
    assert [image.shape for image in images] == [(6, 12, 3), (12, 6, 3), *[(6, 12, 3)] * 3]
    np.testing.assert_array_equal(images[1], np.rot90(images[0], -1))
    for image, name in ((images[0], "0.jpg"), (images[2], "2.jpg"), (images[3], "3.jpg")):
        np.testing.assert_array_equal(image, Image.open(folder / name).convert("RGB"))
    np.testing.assert_array_equal(images[4], picture)


def test_folders_that_cannot_be_used(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    write(tmp_path / "one" / "a.png", 1)
    write(tmp_path / "only" / "test" / "a.png", 1)
    for path, split, message in (
        ("nowhere", "train", "does not exist"),
        ("file", "train", "is not a folder"),
        ("empty", "train", r"no images in .*empty.*\.webp"),
        ("one", "train", "cannot be split"),
        ("one", "valid", "train, test. Received: 'valid'"),
        ("only", "train", "has the splits test. Received: 'train'"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(f"folder:{tmp_path / path}", split)
    with pytest.raises(UserError, match="needs a path"):
        open_source("folder:", "train")

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"one cannot be read: Permission denied"):
        open_source(f"folder:{tmp_path / 'one'}", "train")


def test_home_and_relative_paths(tmp_path, monkeypatch):
    write(tmp_path / "set" / "train" / "a" / "0.png", 3)
    write(tmp_path / "set" / "test" / "a" / "0.png", 4)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert values(open_source("folder:~/set", "train")) == [3]
    assert values(open_source("folder:set", "train")) == [3]


def test_labels_stay_with_their_images_when_one_is_left_out(classes):
    (classes / "train" / "a" / "1.png").write_text("text")
    source = open_source(f"folder:{classes}", "train", max_bad_images=0.1)
    examples = [source.example(tf.constant(i, tf.int64)) for i in source.good]
    assert len(examples) == 11
    assert [int(image[0, 0, 0]) // 10 for image, _ in examples] == [
        int(label) for _, label in examples
    ]
    # the broken one's label is known by its folder
    np.testing.assert_array_equal(source.labels, np.repeat([0, 1, 2], 4))
