"""Data sets that TensorFlow Datasets has prepared here; nothing is downloaded unasked."""

import contextlib
import difflib
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfcontrast.data.bad_images import BadImages
from tfcontrast.data.image_files import refuse_absurd_sizes
from tfcontrast.data.reading import read_each
from tfcontrast.data.record_index import Shard, index_records
from tfcontrast.data.source import Example, Source, explain_failure
from tfcontrast.errors import UserError

_LOG = logging.getLogger(__name__)
_CHUNK = 1024


def tfds_splits(
    name: str, *, data_dir: str | None = None, download: bool = False
) -> tuple[str, ...]:
    """The splits of a data set; arguments and errors as `open_tfds`."""
    return tuple(_open_builder(name, data_dir, download).info.splits)


def open_tfds(
    name: str,
    split: str,
    *,
    data_dir: str | None = None,
    download: bool = False,
    memory_limit: int = 2 * 1024**3,
    max_bad_images: float = 0.01,
) -> Source:
    """Opens a split of a TFDS data set in the order of its files.

    The image and the label are found by the type of the features. Images of one size that fit in
    memory become resident; the others are read from the TFRecord files by random access.

    Args:
        name: `name`, `name/config`, each with or without `:version`.
        split: in TFDS syntax, such as `train`, `train[:90%]` or `train+test`.
        data_dir: where TFDS keeps prepared data; None or empty: its own default.
        download: download and prepare what is not there yet.
        memory_limit: largest size in bytes of decoded images that are kept resident.
        max_bad_images: largest share of images that is passed over because they cannot be read.

    Raises:
        UserError: unknown or absent data set, no such split, no image in it, damaged files, or
            too many damaged images.
    """
    builder = _open_builder(name, data_dir, download)
    info = _split_info(builder, name, split)
    features = builder.info.features
    image_key, label_key = _find_image(features, name), _find_label(builder.info, name)
    keys = [key for key in (image_key, label_key) if key]
    height, width = features[image_key].shape[:2]
    fixed = height is not None and width is not None
    count, read, bad = info.num_examples, None, None
    bad_images: Any = None  # made by Source where nothing can go bad any more
    if fixed and count * height * width * 3 <= memory_limit:
        try:
            images, labels = _read_all(builder, split, count, keys, (height, width))
        except tf.errors.OpError:  # at least one record is damaged: one by one
            read, bad_images = _random_access(builder, name, split, info, keys, max_bad_images)
            images, labels, bad = read_each(read, count, (height, width))
            bad_images.report(np.flatnonzero(bad).tolist())
            read = None
        labelled = bool(labels.max() >= 0)
    else:
        read, bad_images = _random_access(builder, name, split, info, keys, max_bad_images)
        images, labelled = None, label_key is not None and _first_label(read, count) >= 0
        labels = None if labelled else np.full([count], -1, np.int64)
    return Source(
        name=name,
        split=split,
        num_examples=count,
        num_classes=features[label_key].num_classes if labelled else 0,
        class_names=tuple(features[label_key].names) if labelled else (),
        labels=labels,
        images=images,
        read=read,
        image_shape=(height, width) if fixed else None,
        bad=bad,
        bad_images=bad_images,
    )


def _first_label(read: Any, count: int) -> int:
    """The label of the first example that can be read; -1 when none of the first hundred can.

    A split without labels of a labelled data set holds -1 throughout (STL-10's `unlabelled`,
    ImageNet's `test`), so one example tells.
    """
    for place in range(min(count, 100)):
        with contextlib.suppress(tf.errors.OpError):
            return int(read(tf.constant(place, tf.int64))[1])
    return -1


def _open_builder(name: str, data_dir: str | None, download: bool) -> Any:
    import tensorflow_datasets as tfds

    folder = os.path.expanduser(
        data_dir or os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    )
    try:
        return tfds.core.read_only_builder.builder_from_files(name, data_dir=folder)
    except tfds.core.registered.DatasetNotFoundError as error:
        absent = error
    except (ValueError, TypeError) as error:
        raise UserError(
            f"--dataset must be digits, folder:PATH or a TFDS name such as cifar10 or "
            f"imagenet_resized/32x32:0.1.0. Received: {name!r}"
        ) from error
    word = name.split("/")[0].split(":")[0]
    known = tfds.list_builders(with_community_datasets=False)
    if word not in known:
        close = difflib.get_close_matches(word, known, n=3)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise UserError(
            f"--dataset={name} is not known to TensorFlow Datasets and not in {folder}{hint}"
        ) from absent
    if not download:
        raise UserError(
            f"--dataset={name} is not prepared in {folder}; add --download to fetch and prepare "
            "it, or point --data_dir to the folder that holds it"
        ) from absent
    return _prepare(name, folder)


def _prepare(name: str, folder: str) -> Any:
    import tensorflow_datasets as tfds

    _LOG.info("downloading and preparing %s in %s", name, folder)
    try:
        builder = tfds.builder(name, data_dir=folder, try_gcs=False)
        builder.download_and_prepare()
    except Exception as error:  # a download fails in as many ways as there are servers and disks
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise UserError(
            f"--dataset={name} --download: could not be prepared in {folder}: {reason}"
        ) from error
    return builder


def _split_info(builder: Any, name: str, split: str) -> Any:
    splits = builder.info.splits
    accepted = (
        f"--dataset={name} has the splits {', '.join(splits)}, also in parts such as train[:90%]"
    )
    try:
        info = splits[split]
        parts = info.file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        raise UserError(f"{accepted}. Received: {split!r}") from error
    if not parts or any(part.take <= 0 for part in parts):
        raise UserError(f"{accepted}. Received a part without images: {split!r}")
    return info


def _find_image(features: Any, name: str) -> str:
    import tensorflow_datasets as tfds

    # Subclasses are masks (LabeledImage), so the type must be exact.
    found = [key for key in sorted(features) if type(features[key]) is tfds.features.Image]
    if "image" in found:
        found = ["image"]
    if len(found) != 1:
        what = f"several ({', '.join(found)}), none called image" if found else "none"
        raise UserError(f"--dataset={name}: one image feature is needed; it has {what}")
    dtype = tf.as_dtype(features[found[0]].tf_dtype)
    if dtype not in (tf.uint8, tf.uint16):
        raise UserError(
            f"--dataset={name}: images of uint8 or uint16 are needed; it has {dtype.name}"
        )
    return str(found[0])


def _find_label(info: Any, name: str) -> str | None:
    import tensorflow_datasets as tfds

    features = info.features
    found = [key for key in sorted(features) if isinstance(features[key], tfds.features.ClassLabel)]
    pair = info.supervised_keys
    for key in ("label", pair[1] if pair else None):
        if key in found:
            return key
    if len(found) > 1:
        _LOG.warning("%s has several labels (%s); used without labels", name, ", ".join(found))
    return found[0] if len(found) == 1 else None


def _read_all(
    builder: Any, split: str, count: int, keys: list[str], shape: tuple[int, int]
) -> tuple[Any, Any]:
    """Decodes a whole split: uint8 [N, H, W, 3] and int64 [N].

    Raises:
        OpError: a record or an image is damaged.
    """
    import tensorflow_datasets as tfds

    with _without_deprecations():
        dataset = builder.as_dataset(
            split=split,
            decoders=tfds.decode.PartialDecoding(dict.fromkeys(keys, True)),
            # One file after the other: the same order as random access.
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )
    dataset = dataset.map(lambda row: _example(row, keys), tf.data.AUTOTUNE, deterministic=True)
    images, labels = np.empty([count, *shape, 3], np.uint8), np.empty([count], np.int64)
    done = 0
    for image, label in dataset.batch(_CHUNK):
        rows = slice(done, done + len(label))
        images[rows], labels[rows] = image.numpy(), label.numpy()
        done = rows.stop
    return images, labels


@contextlib.contextmanager
def _without_deprecations() -> Iterator[None]:
    """Hides what TFDS's partial decoding has to say about TFDS's own code."""

    def keep(record: logging.LogRecord) -> bool:
        return "is deprecated" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


def _random_access(
    builder: Any, name: str, split: str, info: Any, keys: list[str], max_bad_images: float
) -> tuple[Any, BadImages]:
    """A function from a place to its image and label, and what names the bad ones."""
    import tensorflow_datasets as tfds

    if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UserError(
            f"--dataset={name}: only TFRecord files can be read by random access; "
            f"{builder.data_dir} holds {builder.info.file_format.value}"
        )
    parts = info.file_instructions
    index = index_records(
        [Shard(part.filename, part.skip, part.take, part.examples_in_shard) for part in parts]
    )
    record = index.reader()
    features = tfds.features.FeaturesDict({key: builder.info.features[key] for key in keys})

    def read(i: tf.Tensor) -> Example:
        row = features.deserialize_example(
            record(i), decoders={keys[0]: tfds.decode.SkipDecoding()}
        )
        encoded = refuse_absurd_sizes(row[keys[0]])
        return _example({**row, keys[0]: features[keys[0]].decode_example(encoded)}, keys)

    bad_images = BadImages(
        f"{name}, {split}",
        info.num_examples,
        limit=max_bad_images,
        name=index.name,
        explain=lambda place: explain_failure(read, place),
    )
    return read, bad_images


def _example(row: dict[str, tf.Tensor], keys: list[str]) -> Example:
    label = tf.cast(row[keys[1]], tf.int64) if len(keys) > 1 else tf.constant(-1, tf.int64)
    return _to_rgb(row[keys[0]]), label


def _to_rgb(image: tf.Tensor) -> tf.Tensor:
    """uint8 or uint16 [h, w, 1 | 3 | 4] to uint8 [h, w, 3]; transparency is composited on white."""
    if image.dtype == tf.uint16:
        image = tf.cast(tf.round(tf.cast(image, tf.float32) / 257.0), tf.uint8)
    if image.shape[-1] == 1:
        return tf.repeat(image, 3, axis=-1)
    if image.shape[-1] == 4:
        color, alpha = tf.cast(image[..., :3], tf.float32), tf.cast(image[..., 3:], tf.float32)
        mixed = (color * alpha + 255.0 * (255.0 - alpha)) / 255.0
        return tf.cast(tf.round(mixed), tf.uint8)
    return image
