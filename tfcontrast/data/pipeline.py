"""From a source to batches of views: the input of training.

A batch is a function of (source, recipes, batch size, seed, step) and of nothing else: not of the
number of threads, of the step at which the stream was started or of what came before.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfcontrast.augment import ViewRecipe, crop_draws, cut_view, drawn_boxes, example_seeds
from tfcontrast.data.host import PREFETCH, as_written, cores, ordered_options, resident_rows
from tfcontrast.data.index_stream import index_stream
from tfcontrast.data.index_stream import steps_per_epoch as _steps_per_epoch
from tfcontrast.data.reading import make_reader, make_reporter, read_in_order, stand_ins
from tfcontrast.data.service import serve
from tfcontrast.data.source import Source
from tfcontrast.data.view_making import view_maker

_CHUNK, _CHUNK_OF_SMALL = 16, 1024  # images whose views are made by one call of compiled code
_SMALL = 64  # side in pixels below which a call is short beside what it costs to make it


def steps_per_epoch(source: Source, batch_size: int) -> int:
    """Steps of one pass over the source: N // B.

    Raises:
        UserError: the batch is larger than the source.
    """
    return _steps_per_epoch(source.num_examples, batch_size)


def train_dataset(
    source: Source,
    recipes: Sequence[ViewRecipe],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    share: tuple[int, int, int] = (0, 1, 1),
    service: str = "",
    order: np.ndarray[Any, Any] | None = None,
    views: Callable[..., Any] | None = None,
    unfinished: bool = False,
    jit_compile: bool = True,
    num_parallel_calls: int | None = None,
) -> tf.data.Dataset:
    """The infinite stream of training batches.

    Args:
        source: where the images come from.
        recipes: one recipe for each view; sizes may differ (multi-crop).
        batch_size: images per step over all replicas, B.
        seed: the run's seed; order and views follow from it.
        start_step: first step; the stream equals the tail of the one that starts at 0, bit for bit.
        share: (first replica fed by this process, replicas fed by it, all replicas). Elements are
            batches of B / all rows, one for each of these replicas in turn. Nothing else is read,
            and the concatenation over all replicas is the batch of the share (0, 1, 1): indices
            and labels exactly, views bit for bit when one process feeds all replicas, else to the
            rounding that compiling for another number of rows brings.
        service: address of a tf.data service that prepares the batches, `grpc://host:port`; empty:
            this process does. Order and content are the same.
        order: see `index_stream`.
        views: what `view_maker` gives; None: made here. Data sets that follow each other share one,
            so that it is compiled once.
        unfinished: leave the batched part of the views to the reader of the batches, who applies
            what `view_maker` gives to "images" and "counter".
        jit_compile: compile the batched part of the views with XLA, several times faster on a CPU.
        num_parallel_calls: threads that prepare batches (resident) or images (read); None chooses.
            It never changes the result.

    Returns:
        Dataset of {"views": tuple of float32 [B, S, S, 3] in [0, 1], "label": int64 [B] (-1 =
        none), "index": int64 [B], the place in the source of the image that is shown}, static
        shapes. Unfinished ones have "images" and "counter" in place of "views".

    Raises:
        UserError: the batch is larger than the source, no image of it can be read, or the service
            does not answer or cannot read it.
        ValueError: no recipe, a negative `start_step`, no such share or order.
    """
    recipes = tuple(recipes)
    if not recipes:
        raise ValueError("recipes must hold one recipe for each view. Received: ()")
    rows = batch_size // share[2] * share[1]
    make = views or view_maker(source, recipes, seed=seed, jit_compile=jit_compile)

    @as_written
    def finish(batch: dict[str, Any]) -> dict[str, Any]:
        images = batch.pop("images")
        return {**batch, "views": make(images, batch["counter"])}

    def batches_of(steps: tf.data.Dataset | None) -> tf.data.Dataset:
        how: dict[str, Any] = {"seed": seed, "start_step": start_step, "share": share}
        stream = index_stream(source.num_examples, batch_size, steps=steps, order=order, **how)
        calls = num_parallel_calls or cores()
        chunk = rows if unfinished else _chunk_of(rows, recipes)
        if source.images is not None:
            chunks = _gathered(stream, source, rows, chunk)
        else:
            examples = _examples(stream, source, recipes, seed, calls, jit_compile)
            chunks = examples.batch(chunk, drop_remainder=True)
        if not unfinished:
            chunks = chunks.map(finish, num_parallel_calls=calls, deterministic=True)
        return _join(chunks, rows, chunk)

    dataset = batches_of(None)
    if service:
        dataset = serve(
            dataset.with_options(ordered_options()),
            source,
            service,
            number=lambda batch: batch["counter"][0] // batch_size,
            start=start_step,
            make=lambda step: batches_of(tf.data.Dataset.from_tensors(step)),
        )
    dataset = _deal(_strip(dataset, source, unfinished), share[1])
    return dataset.prefetch(PREFETCH * share[1]).with_options(ordered_options())


def _strip(dataset: tf.data.Dataset, source: Source, unfinished: bool) -> tf.data.Dataset:
    """Leaves of the batches what training takes, and reports the images that were replaced."""
    report = make_reporter(source)

    @as_written
    def strip(batch: dict[str, Any]) -> dict[str, Any]:
        index = batch["index"]
        if source.read is not None:
            index = report(batch["wanted"], index)
        names = ("images", "counter") if unfinished else ("views",)
        return {**{name: batch[name] for name in (*names, "label")}, "index": index}

    return dataset.map(strip)


def _deal(dataset: tf.data.Dataset, replicas: int) -> tf.data.Dataset:
    """Cuts every batch in as many as there are replicas, one after the other."""
    if replicas == 1:
        return dataset

    @as_written
    def cut(batch: Any) -> Any:
        return tf.nest.map_structure(
            lambda rows: tf.reshape(rows, [replicas, rows.shape[0] // replicas, *rows.shape[1:]]),
            batch,
        )

    return dataset.map(cut).unbatch()


def _gathered(stream: tf.data.Dataset, source: Source, rows: int, chunk: int) -> tf.data.Dataset:
    """Chunks of resident images."""
    images, labels = resident_rows(source)
    table = stand_ins(source)

    @as_written
    def cut(*batch: tf.Tensor) -> tf.data.Dataset:
        parts = [tf.reshape(part, [rows // chunk, chunk]) for part in batch]
        return tf.data.Dataset.from_tensor_slices(tuple(parts))

    @as_written
    def gather(counters: tf.Tensor, indices: tf.Tensor) -> dict[str, Any]:
        shown = indices if table is None else tf.gather(table, indices)
        return {
            "images": tf.gather(images, shown),
            "label": tf.gather(labels, shown),
            "index": shown,
            "counter": counters,
        }

    return (stream if chunk == rows else stream.flat_map(cut)).map(gather)


def _read_rows(stream: tf.data.Dataset, source: Source, calls: int) -> tf.data.Dataset:
    """The images of a stream of batches, one by one, read in parallel."""
    read = make_reader(source)
    # (counter, index, ...) -> the arguments of `read`
    places = stream.unbatch().map(lambda counter, index, *more: (index, index, counter, *more))

    @as_written
    def name(*parts: Any) -> dict[str, Any]:
        names = ("images", "label", "index", "wanted", "counter", "draws")
        return dict(zip(names[: len(parts)], parts, strict=True))

    return read_in_order(places, read, calls).map(name)


def _examples(
    stream: tf.data.Dataset,
    source: Source,
    recipes: tuple[ViewRecipe, ...],
    seed: int,
    calls: int,
    jit_compile: bool = True,
) -> tf.data.Dataset:
    """Images one by one: whole where all are of one size, else their crops.

    Each image is decoded once for all views.
    """
    if source.image_shape is not None:
        return _read_rows(stream, source, calls)

    @as_written
    def draw(counters: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, ...]:
        draws = [crop_draws(example_seeds(seed, counters, view)) for view in range(len(recipes))]
        return counters, indices, tf.stack(draws, axis=1)

    # Compiled, since these are a hundred operations on a few numbers.
    @tf.function(jit_compile=jit_compile)
    @as_written
    def boxes_of(draws: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> list[tf.Tensor]:
        return [
            drawn_boxes(draws[None, view], height, width, recipe)[0]
            for view, recipe in enumerate(recipes)
        ]

    @as_written
    def crop(row: dict[str, Any]) -> dict[str, Any]:
        image = row["images"][None]
        shape = tf.shape(image)
        boxes = boxes_of(row.pop("draws"), shape[1], shape[2])
        crops = [
            cut_view(image, box, recipe)[0] for box, recipe in zip(boxes, recipes, strict=True)
        ]
        return {**row, "images": tuple(crops)}

    # Drawn by the batch: hundreds of small operations, whose cost is their number.
    examples = _read_rows(stream.map(draw), source, calls)
    return examples.map(crop, num_parallel_calls=calls, deterministic=True)


def _chunk_of(rows: int, recipes: tuple[ViewRecipe, ...]) -> int:
    """The largest divisor of a batch's rows up to the size of a chunk; all rows when that is 1.

    Chunks are small enough that many can be in work at once, and of one size whatever the batch, so
    that processes that share a batch compile the same.
    """
    small = max(recipe.image_size for recipe in recipes) < _SMALL
    most = _CHUNK_OF_SMALL if small else _CHUNK
    largest = max(size for size in range(1, most + 1) if rows % size == 0)
    return largest if largest > 1 else rows


def _join(chunks: tf.data.Dataset, rows: int, chunk: int) -> tf.data.Dataset:
    """Makes batches of chunks."""
    if chunk == rows:
        return chunks

    @as_written
    def flat(batch: Any) -> Any:
        return tf.nest.map_structure(lambda x: tf.reshape(x, [rows, *x.shape[2:]]), batch)

    return chunks.batch(rows // chunk, drop_remainder=True).map(flat)
