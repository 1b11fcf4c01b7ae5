"""From a source to batches of clean images: the input of evaluation."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfcontrast.augment import eval_view
from tfcontrast.data.host import PREFETCH, cores, ordered_options, resident_rows
from tfcontrast.data.reading import (
    good_places,
    make_reader,
    make_reporter,
    read_in_order,
    report_places,
    stand_ins,
)
from tfcontrast.data.source import Source


def eval_dataset(
    source: Source,
    *,
    image_size: int,
    batch_size: int,
    crop_fraction: float = 0.875,
    every_place: bool = False,
    num_parallel_calls: int | None = None,
) -> tf.data.Dataset:
    """Every example once, in the source's order; the last batch may be smaller.

    Args:
        source: where the images come from.
        image_size: side of the images in pixels.
        batch_size: images per batch; may exceed the source.
        crop_fraction: share of the shorter side that `eval_view` keeps of images above 32 pixels.
        every_place: show the next good image for a bad one, as training does, so that row i is
            place i; otherwise the bad ones are left out.
        num_parallel_calls: threads; None chooses. It never changes the result.

    Returns:
        Finite dataset of {"image": float32 [b, S, S, 3] in [0, 1], "label": int64 [b] (-1 = none),
        "index": int64 [b], the place of the image that is shown}.

    Raises:
        UserError: none of the images can be read.
        ValueError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive. Received: {batch_size}")
    calls = num_parallel_calls or cores()
    shown = np.arange(source.num_examples) if every_place else good_places(source)
    places = tf.data.Dataset.from_tensor_slices(shown.astype(np.int64))

    def view(batch: tf.Tensor) -> tf.Tensor:
        return eval_view(batch, image_size=image_size, crop_fraction=crop_fraction)

    if source.images is None:
        read_them = _read_every if every_place else _read_good
        examples = read_them(places, source, view, calls)
        return examples.batch(batch_size).prefetch(PREFETCH).with_options(ordered_options())
    images, labels = resident_rows(source)
    table = stand_ins(source) if every_place else None

    def make_batch(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        indices = indices if table is None else tf.gather(table, indices)
        batch = view(tf.gather(images, indices))
        return {"image": batch, "label": tf.gather(labels, indices), "index": indices}

    batches = places.batch(batch_size).map(
        make_batch, num_parallel_calls=min(calls, 2), deterministic=True
    )
    return batches.prefetch(PREFETCH).with_options(ordered_options())


def _read_good(places: tf.data.Dataset, source: Source, view: Any, calls: int) -> tf.data.Dataset:
    """The images at these places, one by one, without those that cannot be read any more."""
    read = make_reader(source, attempts=1)

    def note(place: Any) -> Any:
        report_places(source, [int(place)])
        return np.bool_(False)

    def finish(
        image: tf.Tensor, label: tf.Tensor, shown: tf.Tensor, place: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        good = tf.cond(
            shown >= 0,
            lambda: tf.constant(True),
            lambda: tf.ensure_shape(tf.numpy_function(note, [place], tf.bool), []),
        )
        return {"image": view(image[None])[0], "label": label, "index": shown, "good": good}

    examples = read_in_order(places.map(lambda place: (place, place)), read, calls)
    examples = examples.map(finish, num_parallel_calls=calls, deterministic=True)
    examples = examples.filter(lambda row: row["good"])
    return examples.map(lambda row: {key: row[key] for key in ("image", "label", "index")})


def _read_every(places: tf.data.Dataset, source: Source, view: Any, calls: int) -> tf.data.Dataset:
    """One image for each of these places, one by one: the next that can be read."""
    report = make_reporter(source)

    def finish(
        image: tf.Tensor, label: tf.Tensor, shown: tf.Tensor, place: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        shown = report(place[None], shown[None])[0]
        return {"image": view(image[None])[0], "label": label, "index": shown}

    examples = read_in_order(places.map(lambda place: (place, place)), make_reader(source), calls)
    return examples.map(finish, num_parallel_calls=calls, deterministic=True)
