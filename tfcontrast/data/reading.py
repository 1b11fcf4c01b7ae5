"""Reading images one by one where some cannot be read, without moving the others."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfcontrast.data.bad_images import verdict
from tfcontrast.data.source import Source

_CYCLE = 16  # images that are open at once

# A function of a place, and of what else shall come with it, that gives a data set of one element:
# image, label, the place that is really shown (-1 when nothing could be read), and the rest.
Read = Callable[..., tf.data.Dataset]


def good_places(source: Source) -> np.ndarray[Any, Any]:
    """The places of the images that can be used.

    Raises:
        UserError: there is none.
    """
    if not source.num_good:
        raise verdict(f"none of the {source.num_examples} images of {source.name} can be read")
    return source.good


def stand_ins(source: Source) -> np.ndarray[Any, Any] | None:
    """Place to the place that is shown for it, int64 [N]; None when every image is shown itself.

    For a bad image it is the next good one of the source, and after the last the first.
    """
    if source.bad is None or not source.bad.any():
        return None
    return good_places(source)[_ranks(source)]


def _ranks(source: Source) -> np.ndarray[Any, Any]:
    """Place to the number of the good image that is shown for it, counted among the good ones."""
    good = good_places(source)
    return np.searchsorted(good, np.arange(source.num_examples)) % len(good)


def make_reader(source: Source, *, attempts: int | None = None) -> Read:
    """Reads the image at a place or, where that fails, the next one that can be read.

    Args:
        source: one that is read.
        attempts: images that are tried; None: one more than may be bad.
    """
    good, ranks, total = good_places(source), None, source.num_examples
    most = min(attempts or source.bad_images.accepted + 1, len(good))
    with tf.device("CPU:0"):
        if len(good) < total:
            good, ranks = tf.constant(good, tf.int64), tf.constant(_ranks(source), tf.int64)
    shape = [*(source.image_shape or (None, None)), 3]
    nothing = (tf.zeros([side or 1 for side in shape], tf.uint8), *[tf.constant(-1, tf.int64)] * 2)

    def read(place: tf.Tensor, *rest: tf.Tensor) -> tf.data.Dataset:
        def attempt(turn: tf.Tensor) -> tuple[tf.Tensor, ...]:
            shown = (place + turn) % total
            if ranks is not None:
                shown = good[(ranks[place] + turn) % tf.size(good, tf.int64)]
            image, label = source.example(shown)
            return (tf.ensure_shape(image, shape), label, shown, *rest)

        found = tf.data.Dataset.range(most).map(attempt).ignore_errors()
        return found.concatenate(tf.data.Dataset.from_tensors((*nothing, *rest))).take(1)

    return read


def read_in_order(places: tf.data.Dataset, read: Read, calls: int) -> tf.data.Dataset:
    """Reads every element of a data set of places, in parallel; one element each, in order.

    For small images this costs 5 % more processor time than a plain parallel map, which would lose
    the places of those that fail; the same by ``get_single_element`` in a map costs 50 % more.

    Args:
        places: elements are the arguments of `read`.
        read: from `make_reader`.
        calls: threads.
    """
    return places.interleave(
        read, cycle_length=max(_CYCLE, calls), num_parallel_calls=calls, deterministic=True
    )


def make_reporter(source: Source) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A function that tells of the images for which others stand in, in a graph.

    It takes the places that were wanted and those that are shown, both int64 [rows], and gives the
    latter; it fails when too many images are bad.
    """
    expected = stand_ins(source)
    good = good_places(source)
    with tf.device("CPU:0"):
        table = None if expected is None else tf.constant(expected, tf.int64)

    def note(wanted: np.ndarray[Any, Any], shown: np.ndarray[Any, Any]) -> np.bool_:
        failed: list[int] = []
        for start, end in zip(np.searchsorted(good, wanted), shown, strict=True):
            number = int(start)
            for _ in range(min(source.bad_images.accepted + 1, len(good))):
                if good[number] == end:
                    break
                failed.append(int(good[number]))
                number = (number + 1) % len(good)
        report_places(source, failed)
        if (shown < 0).any():
            raise verdict(f"no image of {source.name}, {source.split}, can be read any more")
        return np.bool_(True)

    def report(wanted: tf.Tensor, shown: tf.Tensor) -> tf.Tensor:
        wanted = wanted if table is None else tf.gather(table, wanted)
        noted = tf.cond(
            tf.reduce_all(wanted == shown),
            lambda: tf.constant(True),
            lambda: tf.ensure_shape(tf.numpy_function(note, [wanted, shown], tf.bool), []),
        )
        with tf.control_dependencies([noted]):
            return tf.identity(shown)

    return report


def report_places(source: Source, places: list[int]) -> None:
    """Counts and names images that could not be read.

    Raises:
        UserError: too many are bad by now.
    """
    origins = places if source.origins is None else source.origins[places].tolist()
    source.bad_images.report(list(dict.fromkeys(origins)))


def read_each(read: Any, count: int, shape: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Decodes a whole split of which some examples are damaged.

    Args:
        read: maps a place to its image and label in a graph.
        count: examples N.
        shape: (height, width) of every image; another one counts as damaged.

    Returns:
        Images uint8 [N, height, width, 3], labels int64 [N] and bool [N], which are damaged: their
        images are black, their labels -1.
    """
    images, labels = np.zeros([count, *shape, 3], np.uint8), np.full([count], -1, np.int64)

    def of_its_size(place: tf.Tensor) -> tuple[tf.Tensor, ...]:
        image, label = read(place)
        return place, tf.ensure_shape(image, [*shape, 3]), label

    # Unlike elsewhere the bad ones may go missing here: every example says where it belongs.
    found = tf.data.Dataset.range(count).map(of_its_size, tf.data.AUTOTUNE, deterministic=True)
    bad = np.ones([count], bool)
    for places, some, their_labels in found.ignore_errors().batch(1024):
        rows = places.numpy()
        images[rows], labels[rows], bad[rows] = some.numpy(), their_labels.numpy(), False
    return images, labels, bad
