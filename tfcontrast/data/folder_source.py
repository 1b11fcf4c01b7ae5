"""`folder:PATH`: the user's own images, with a sub-folder for each class or without classes."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfcontrast.data.bad_images import BadImages
from tfcontrast.data.image_files import (
    EXTENSIONS,
    check_images,
    decode_image,
    decode_plain_jpeg,
    explain,
)
from tfcontrast.data.source import Example, Source, stratified_split
from tfcontrast.errors import UserError

_LOG = logging.getLogger(__name__)

_TESTS = ("test", "val", "validation")
_TEST_SHARE = 0.1

Labels = np.ndarray[Any, Any]


def folder_splits(path: str) -> tuple[str, ...]:
    """The splits of a folder.

    With sub-folders `train` and `test`, `val` or `validation` these are the splits (the first one
    for testing is also called `test`); else `train` and `test` are shares of the images of `train`
    or of the whole folder.
    """
    return tuple(_layout(_absolute(path)))


def open_folder(path: str, split: str, *, seed: int = 0, max_bad_images: float = 0.01) -> Source:
    """Opens the images below a folder.

    Without a folder for testing, a tenth of the images, stratified by class and drawn by the seed,
    is the test split. Sub-folders are classes, in the order of their names; when images lie beside
    them, or there are none, the split is unlabelled. Files are ordered by path; hidden files and
    other extensions are passed over. Every image is decoded once here: files that cannot be are
    named in the log and marked as bad; they keep their places, so that neither the split nor the
    order of the others depends on them.

    Args:
        path: the folder.
        split: one of `folder_splits(path)`.
        seed: draws the test share; train and test must be opened with the same one.
        max_bad_images: largest share of unusable files that is passed over.

    Raises:
        UserError: no folder, unreadable, no images, no such split, or too many bad images.
    """
    path = _absolute(path)
    layout = _layout(path)
    if split not in layout:
        raise UserError(
            f"--dataset=folder:{path} has the splits {', '.join(layout)}. Received: {split!r}"
        )
    folder, is_share = layout[split]
    found = {
        name: _image_names(os.path.join(path, name)) for name in {f for f, _ in layout.values()}
    }
    names, root = found[folder], os.path.join(path, folder).rstrip("/") or "/"
    if not names:
        raise UserError(
            f"--dataset=folder:{path}: no images in {root}; accepted: {', '.join(EXTENSIONS)}"
        )
    # One numbering for all splits, so that a class that a split lacks does not shift the others.
    classes = sorted({_class_of(name) for each in found.values() for name in _labelled(each)})
    labels = _labels(root, names, classes)
    if is_share:
        if len(names) < 2:
            raise UserError(f"--dataset=folder:{path}: one image cannot be split in train and test")
        train, test = stratified_split(labels, _TEST_SHARE, seed=seed)
        chosen = train if split == "train" else test
        names, labels = [names[i] for i in chosen], labels[chosen]
    checked = check_images(root, names)
    bad_images = BadImages(
        root,
        len(names),
        limit=max_bad_images,
        name=lambda place: names[place],
        explain=lambda place: explain(os.path.join(root, names[place])),
    )
    bad_images.report([place for place, _ in checked.bad], [why for _, why in checked.bad])
    bad, plain = np.zeros([2, len(names)], bool)
    bad[[place for place, _ in checked.bad]] = True
    plain[checked.plain] = True
    labelled = bool(labels.max() >= 0)
    in_process = bool((~plain & ~bad).any())
    return Source(
        name=f"folder:{path}",
        split=split,
        num_examples=len(names),
        num_classes=len(classes) if labelled else 0,
        class_names=tuple(classes) if labelled else (),
        labels=labels,
        read=_reader([os.path.join(root, name) for name in names], plain, labels, in_process),
        bad=bad if bad.any() else None,
        bad_images=bad_images,
        in_process=in_process,
    )


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _layout(path: str) -> dict[str, tuple[str, bool]]:
    """Split -> (sub-folder, whether the split is a share of it)."""
    if not os.path.isdir(path):
        what = "is not a folder" if os.path.exists(path) else "does not exist"
        raise UserError(f"--dataset=folder:{path}: {path} {what}; a folder of images is needed")
    folders = {entry.name for entry in _entries(path) if entry.is_dir()}
    tests = [name for name in _TESTS if name in folders]
    if not tests:
        root = "train" if "train" in folders else ""
        return {"train": (root, True), "test": (root, True)}
    layout = {"train": ("train", False)} if "train" in folders else {}
    layout["test"] = (tests[0], False)
    return layout | {name: (name, False) for name in tests}


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What is in a folder, in the order of the names, without hidden entries."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry for entry in entries if not entry.name.startswith(".")),
                key=lambda entry: entry.name,
            )
    except OSError as error:
        raise UserError(f"--dataset=folder: {folder} cannot be read: {error.strerror}") from error


def _image_names(root: str) -> list[str]:
    """Paths of all images below a folder, relative to it, sorted.

    Links are followed, but not in circles.
    """
    names: list[str] = []

    def walk(folder: str, prefix: str, above: tuple[str, ...]) -> None:
        real = os.path.realpath(folder)
        if real in above:
            return
        for entry in _entries(folder):
            if entry.is_dir():
                walk(entry.path, f"{prefix}{entry.name}/", (*above, real))
            elif entry.name.lower().endswith(EXTENSIONS):
                names.append(prefix + entry.name)

    walk(root, "", ())
    return sorted(names)


def _class_of(name: str) -> str:
    return name.split("/", 1)[0]


def _labelled(names: Sequence[str]) -> Sequence[str]:
    """The names when every image lies in a sub-folder, else nothing."""
    return names if all("/" in name for name in names) else ()


def _labels(root: str, names: Sequence[str], classes: Sequence[str]) -> Labels:
    if _labelled(names):
        number = {name: place for place, name in enumerate(classes)}
        return np.array([number[_class_of(name)] for name in names], np.int64)
    loose = [name for name in names if "/" not in name]
    if len(loose) < len(names):
        _LOG.warning(
            "%s: %d images lie beside the sub-folders (%s, ...), so these are not classes",
            root,
            len(loose),
            loose[0],
        )
    return np.full([len(names)], -1, np.int64)


def _reader(paths: list[str], plain: Labels, labels: Labels, in_process: bool) -> Any:
    """A function from a place to its image and label; `in_process`: some files are not plain."""

    def decode(index: Labels) -> Labels:
        return decode_image(paths[int(index)])

    with tf.device("CPU:0"):
        files, kinds, table = tf.constant(paths), tf.constant(plain), tf.constant(labels)

    def any_kind(index: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(decode, [index], tf.uint8, stateful=False)

    def read(index: tf.Tensor) -> Example:
        if in_process:
            image = tf.cond(
                kinds[index], lambda: decode_plain_jpeg(files[index]), lambda: any_kind(index)
            )
        else:
            image = decode_plain_jpeg(files[index])
        return tf.ensure_shape(image, [None, None, 3]), tf.gather(table, index)

    return read
