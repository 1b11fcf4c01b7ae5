"""From a source to batches of views: the input of training and of evaluation.

A batch is a function of (source, recipes, batch size, seed, step) and of nothing else: not of the
number of threads, of the step at which the stream was started or of what came before.
"""

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfcontrast.augment import (
    ViewRecipe,
    crop_view,
    distort_view,
    eval_view,
    example_seeds,
    make_view,
)
from tfcontrast.data.index_stream import index_stream
from tfcontrast.data.index_stream import steps_per_epoch as _steps_per_epoch
from tfcontrast.data.source import Source

_PREFETCH = 2


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
        jit_compile: compile the batched part of the views with XLA, several times faster on a CPU.
        num_parallel_calls: threads that prepare batches (resident) or images (read); None chooses.
            It never changes the result.

    Returns:
        Dataset of {"views": tuple of float32 [B, S, S, 3] in [0, 1], "label": int64 [B] (-1 =
        none), "index": int64 [B], the image's place in the source}, static shapes.

    Raises:
        UserError: the batch is larger than the source.
        ValueError: no recipe, or a negative `start_step`.
    """
    recipes = tuple(recipes)
    if not recipes:
        raise ValueError("recipes must hold one recipe for each view. Received: ()")
    stream = index_stream(source.num_examples, batch_size, seed=seed, start_step=start_step)
    calls = num_parallel_calls or _cores()
    if source.image_shape is not None:
        batches = _image_batches(stream, source, batch_size, calls)
        make = _view_maker(recipes, seed, jit_compile)
    else:
        batches = _crop_batches(stream, source, recipes, batch_size, seed, calls)
        make = _distorter(recipes, seed, jit_compile)

    def finish(batch: dict[str, Any]) -> dict[str, Any]:
        views = make(batch["images"], batch["counter"])
        return {"views": views, "label": batch["label"], "index": batch["index"]}

    # A compiled batch already uses several cores, and training wants some.
    calls = num_parallel_calls or max(2, _cores() // 4)
    dataset = batches.map(finish, num_parallel_calls=calls, deterministic=True)
    return dataset.prefetch(_PREFETCH).with_options(_options())


def _image_batches(
    stream: tf.data.Dataset, source: Source, batch_size: int, calls: int
) -> tf.data.Dataset:
    """Whole batches of images of one size: gathered, or read in parallel."""
    if source.images is None:

        def read(counter: tf.Tensor, index: tf.Tensor) -> dict[str, Any]:
            image, label = source.example(index)
            image = tf.ensure_shape(image, [*(source.image_shape or ()), 3])
            return {"images": image, "label": label, "index": index, "counter": counter}

        examples = stream.unbatch().map(read, num_parallel_calls=calls, deterministic=True)
        return examples.batch(batch_size, drop_remainder=True)
    images, labels = _on_host(source)
    return stream.map(
        lambda counters, indices: {
            "images": tf.gather(images, indices),
            "label": tf.gather(labels, indices),
            "index": indices,
            "counter": counters,
        }
    )


def _crop_batches(
    stream: tf.data.Dataset,
    source: Source,
    recipes: tuple[ViewRecipe, ...],
    batch_size: int,
    seed: int,
    calls: int,
) -> tf.data.Dataset:
    """Batches of crops, for images of many sizes; each image is decoded once for all views."""

    def crop(counter: tf.Tensor, index: tf.Tensor) -> dict[str, Any]:
        image, label = source.example(index)
        crops = [
            crop_view(image[None], example_seeds(seed, counter[None], view), recipe)[0]
            for view, recipe in enumerate(recipes)
        ]
        return {"images": tuple(crops), "label": label, "index": index, "counter": counter}

    examples = stream.unbatch().map(crop, num_parallel_calls=calls, deterministic=True)
    return examples.batch(batch_size, drop_remainder=True)


def _view_maker(recipes: tuple[ViewRecipe, ...], seed: int, jit_compile: bool) -> Any:
    @tf.function(jit_compile=jit_compile)
    def make_views(images: tf.Tensor, counters: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(
            make_view(images, example_seeds(seed, counters, view), recipe)
            for view, recipe in enumerate(recipes)
        )

    return make_views


def _distorter(recipes: tuple[ViewRecipe, ...], seed: int, jit_compile: bool) -> Any:
    @tf.function(jit_compile=jit_compile)
    def distort(crops: tuple[tf.Tensor, ...], counters: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tuple(
            distort_view(batch, example_seeds(seed, counters, view), recipe)
            for view, (batch, recipe) in enumerate(zip(crops, recipes, strict=True))
        )

    return distort


def eval_dataset(
    source: Source,
    *,
    image_size: int,
    batch_size: int,
    crop_fraction: float = 0.875,
    num_parallel_calls: int | None = None,
) -> tf.data.Dataset:
    """Every example once, in the source's order; the last batch may be smaller.

    Args:
        source: where the images come from.
        image_size: side of the images in pixels.
        batch_size: images per batch; may exceed the source.
        crop_fraction: share of the shorter side that `eval_view` keeps of images above 32 pixels.
        num_parallel_calls: threads; None chooses. It never changes the result.

    Returns:
        Finite dataset of {"image": float32 [b, S, S, 3] in [0, 1], "label": int64 [b] (-1 = none),
        "index": int64 [b]}.

    Raises:
        ValueError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive. Received: {batch_size}")
    calls = num_parallel_calls or _cores()
    places = tf.data.Dataset.range(source.num_examples)

    def view(batch: tf.Tensor) -> tf.Tensor:
        return eval_view(batch, image_size=image_size, crop_fraction=crop_fraction)

    def read_one(index: tf.Tensor) -> dict[str, tf.Tensor]:
        image, label = source.example(index)
        return {"image": view(image[None])[0], "label": label, "index": index}

    if source.images is None:
        examples = places.map(read_one, num_parallel_calls=calls, deterministic=True)
        return examples.batch(batch_size).prefetch(_PREFETCH).with_options(_options())
    images, labels = _on_host(source)

    def make_batch(indices: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = view(tf.gather(images, indices))
        return {"image": batch, "label": tf.gather(labels, indices), "index": indices}

    batches = places.batch(batch_size).map(
        make_batch, num_parallel_calls=min(calls, 2), deterministic=True
    )
    return batches.prefetch(_PREFETCH).with_options(_options())


def _on_host(source: Source) -> tuple[tf.Tensor, tf.Tensor]:
    """The resident images and labels as tensors of the host, whatever devices there are."""
    with tf.device("CPU:0"):
        return tf.constant(source.images), tf.constant(source.labels)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # Distributed over workers, each takes its share of every batch; there are no files to deal.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return options


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
