"""What a data set is to the package: images in a fixed order, resident or read one by one."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfcontrast.data.bad_images import BadImages, first_line
from tfcontrast.errors import UserError

Example = tuple[tf.Tensor, tf.Tensor]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """One split of a data set. Example i is the same image in every run and on every machine.

    Exactly one of `images` and `read` is given: small data sets of one image size are resident,
    others are read. An image that cannot be read keeps its place, so that it moves no other: in
    training the next good one of the same source stands in, in evaluation it is left out.

    Attributes:
        name: the data set as the user named it.
        split: the split as the user named it.
        num_examples: number of places N, those of bad images included.
        num_classes: number of classes; 0 means unlabelled.
        class_names: their names in the order of the labels; empty when there are none.
        labels: int64 [N], -1 where an image has no label; None when a label is only known by
            reading its record, see `read_labels`.
        images: uint8 [N, H, W, 3], or None.
        read: maps an int64 scalar in [0, N) to (uint8 [h, w, 3], int64 scalar) in a graph, or None.
        image_shape: (height, width) when all images share it, else None.
        bad: bool [N], which images are known to be unreadable; None when none is.
        origins: int64 [N], the places in the split that was opened; None when they are the same.
        bad_images: what counts and names the images that turn out to be bad later.
        in_process: whether `read` needs this process, so that no other can read for it.
    """

    name: str
    split: str
    num_examples: int
    num_classes: int
    class_names: tuple[str, ...] = ()
    labels: np.ndarray[Any, Any] | None = None
    images: np.ndarray[Any, Any] | None = None
    read: Callable[[tf.Tensor], Example] | None = None
    image_shape: tuple[int, int] | None = None
    bad: np.ndarray[Any, Any] | None = None
    origins: np.ndarray[Any, Any] | None = None
    bad_images: Any = None  # BadImages; made here when nobody brings one
    in_process: bool = False

    def __post_init__(self) -> None:
        if (self.images is None) == (self.read is None):
            raise ValueError(
                "exactly one of images and read must be given. Received: "
                f"images={type(self.images)}, read={self.read}"
            )
        if self.images is not None:
            if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
                raise ValueError(
                    "images must be uint8 [N, H, W, 3]. Received: "
                    f"{self.images.dtype} {self.images.shape}"
                )
            if self.labels is None:
                raise ValueError("a resident source must have labels. Received: labels=None")
            object.__setattr__(self, "image_shape", self.images.shape[1:3])
        for rows in (self.images, self.labels, self.bad, self.origins):
            if rows is not None and len(rows) != self.num_examples:
                raise ValueError(
                    "images, labels, bad and origins must have num_examples="
                    f"{self.num_examples} rows. Received: {len(rows)}"
                )
        if self.bad_images is None:
            found = BadImages(
                f"{self.name}, {self.split}",
                self.num_examples,
                name=lambda place: f"image {place}",
                explain=lambda place: explain_failure(self.example, place),
                told=set(),
            )
            object.__setattr__(self, "bad_images", found)

    @property
    def good(self) -> np.ndarray[Any, Any]:
        """The places of the images that are not known to be bad, ascending int64."""
        if self.bad is None:
            return np.arange(self.num_examples)
        return np.flatnonzero(~self.bad)

    @property
    def num_good(self) -> int:
        """How many images are not known to be bad."""
        return len(self.good)

    def example(self, index: tf.Tensor) -> Example:
        """Image `index` as uint8 [h, w, 3] and its label as int64; usable in a graph.

        For images that are read one at a time; resident ones are better gathered by the batch.
        """
        if self.read is not None:
            return self.read(index)
        return tf.gather(self.images, index), tf.gather(self.labels, index)

    def load(self, index: tf.Tensor) -> tf.Tensor:
        """The image of `example`."""
        return self.example(index)[0]

    def read_labels(self) -> np.ndarray[Any, Any]:
        """All labels, int64 [N]; reads every record when they are not known yet.

        An image whose record cannot be read has the label -1.
        """
        if self.labels is not None:
            return self.labels
        unknown = tf.data.Dataset.from_tensors(tf.constant(-1, tf.int64))

        def label_of(place: tf.Tensor) -> tf.data.Dataset:
            found = tf.data.Dataset.from_tensors(place).map(lambda i: self.example(i)[1])
            return found.ignore_errors().concatenate(unknown).take(1)

        labels = tf.data.Dataset.range(self.num_examples).interleave(
            label_of, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        return np.concatenate([batch.numpy() for batch in labels.batch(4096)]).astype(np.int64)

    def subset(self, indices: np.ndarray[Any, Any]) -> "Source":
        """The examples `indices` in that order; example i of the result is `indices[i]` of this.

        Args:
            indices: integers [M] in [0, N), M > 0; repeats are kept.

        Raises:
            ValueError: `indices` is empty, not an integer vector, or out of range.
        """
        indices = np.asarray(indices)
        if indices.ndim != 1 or not indices.size or not np.issubdtype(indices.dtype, np.integer):
            raise ValueError(
                "indices must be a vector of integers with at least one element. "
                f"Received: {indices.dtype} {indices.shape}"
            )
        if indices.min() < 0 or indices.max() >= self.num_examples:
            raise ValueError(
                f"indices must be in [0, {self.num_examples}). "
                f"Received: {indices.min()} to {indices.max()}"
            )
        return dataclasses.replace(
            self,
            num_examples=len(indices),
            labels=None if self.labels is None else self.labels[indices],
            images=None if self.images is None else self.images[indices],
            read=None if self.read is None else _through(self.read, indices),
            bad=None if self.bad is None else self.bad[indices],
            origins=indices.astype(np.int64) if self.origins is None else self.origins[indices],
        )


def explain_failure(example: Callable[[tf.Tensor], Example], place: int) -> str:
    """Why an image cannot be read, by reading it again."""
    try:
        with tf.device("CPU:0"):
            example(tf.constant(place, tf.int64))
    except Exception as error:  # decoders of damaged files raise whatever they trip over
        # An assertion tells of its condition first.
        return re.sub(r".*Summarized data: b'(.*)'", r"\1", first_line(error))
    return "it could not be read"


def _through(read: Callable[[tf.Tensor], Example], indices: np.ndarray[Any, Any]) -> Any:
    with tf.device("CPU:0"):
        table = tf.constant(indices, tf.int64)
    return lambda index: read(tf.gather(table, index))


def split_holdout(source: Source, fraction: float, *, seed: int = 0) -> tuple[Source, Source]:
    """Keeps a share of a source out of training.

    The share is stratified by class when the labels are in memory, else uniform. It depends on the
    seed and on nothing else, and both parts keep the source's order.

    Args:
        source: what to split, at least two examples.
        fraction: share that is held out, in (0, 1); at least one example goes to either side.
        seed: any integer.

    Returns:
        (the rest, the held-out part).

    Raises:
        UserError: the source has fewer than two examples.
        ValueError: `fraction` is not in (0, 1).
    """
    if source.num_examples < 2:
        raise UserError(
            f"--dataset={source.name} --train_split={source.split}: cannot hold out a part of "
            f"{source.num_examples} image"
        )
    labels = source.labels
    if labels is None:
        labels = np.zeros([source.num_examples], np.int64)
    rest, held_out = stratified_split(labels, fraction, seed=seed)
    return source.subset(rest), source.subset(held_out)


def stratified_split(
    labels: np.ndarray[Any, Any], fraction: float, *, seed: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Splits indices so that every class gives its share and the total is exact to rounding.

    Within each class of n the shuffled examples get the positions (j + 1/2) / n; the lowest
    positions of all classes together are held out. The random order is the stable rank of raw PCG64
    words, which NumPy promises not to change.

    Args:
        labels: [N] integers, N >= 2.
        fraction: share that is held out, in (0, 1).
        seed: any integer; its low 64 bits count.

    Returns:
        (indices of the rest, held-out indices), both ascending int64, neither empty.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must be in (0, 1). Received: {fraction}")
    total = len(labels)
    draws = np.random.PCG64(seed & 0xFFFFFFFFFFFFFFFF).random_raw(total)
    order = np.lexsort((draws, labels))
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.arange(total) - np.repeat(starts, counts)
    position = np.empty(total)
    position[order] = (place + 0.5) / np.repeat(counts, counts)
    count = min(max(round(total * fraction), 1), total - 1)
    chosen = np.zeros(total, bool)
    chosen[np.lexsort((draws, position))[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
