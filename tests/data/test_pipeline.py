import contextlib
import dataclasses
import functools
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import ViewRecipe, example_seeds, make_view
from tfcontrast.data import (
    Source,
    index_stream,
    pipeline,
    steps_per_epoch,
    train_dataset,
    view_maker,
    view_making,
)
from tfcontrast.errors import UserError

COUNT, BATCH, SEED = 11, 4, 3
IMAGES = np.random.default_rng(0).integers(0, 255, [COUNT, 9, 7, 3], np.uint8, endpoint=True)
LABELS = np.arange(COUNT, dtype=np.int64) * 5 % 3

# Cheap to trace and compile, random in every part: place, flip, colour, pixels.
RECIPES = (
    ViewRecipe(image_size=8, crop_probability=1.0, crop_area=(0.3, 1.0), flip_probability=0.5,
               grayscale_probability=0.3, solarize_probability=0.3),
    ViewRecipe(image_size=5, crop_probability=0.8, crop_area=(0.2, 0.8), noise_stddev=0.1),
)  # fmt: skip


toy = functools.partial(Source, name="toy", split="train", num_examples=COUNT, num_classes=3)


def resident():
    return toy(images=IMAGES, labels=LABELS)


def one_size():
    """Read one by one, all images of one size."""
    return toy(image_shape=(9, 7), read=lambda i: (tf.gather(IMAGES, i), tf.gather(LABELS, i)))


def many_sizes():
    """Read one by one; image i has i rows less at the bottom, up to 4."""

    def read(index):
        image = tf.gather(IMAGES, index)[: 9 - tf.cast(index % 5, tf.int32)]
        return tf.ensure_shape(image, [None, None, 3]), tf.gather(LABELS, index)

    return toy(read=read)


SOURCES = {"resident": resident, "one_size": one_size, "many_sizes": many_sizes}
every_source = pytest.mark.parametrize("kind", SOURCES)


def cheap_crop(images, seeds, recipe):
    size = [recipe.image_size] * 2
    share = tf.cast(tf.bitwise.right_shift(seeds[:, 0], 8), tf.float32) / 2**24
    return tf.image.resize(tf.cast(images, tf.float32) / 255.0, size) * share[:, None, None, None]


def cheap_distort(images, seeds, recipe):
    share = tf.cast(tf.bitwise.right_shift(seeds[:, 1], 8), tf.float32) / 2**24
    return (images + share[:, None, None, None]) / 2.0


_CHEAP = {
    "crop_draws": lambda seeds: tf.bitcast(seeds, tf.float32),
    # A box holds the draws, which are the seeds: all of an image's view follows from them.
    "drawn_boxes": lambda draws, height, width, recipe: tf.bitcast(draws, tf.int32),
    "cut_view": lambda x, box, recipe: cheap_crop(x, tf.bitcast(box[None], tf.uint32), recipe),
    "finish_crop": lambda crops, draws, recipe: crops,
    "distort_view": cheap_distort,
    "make_view": lambda x, s, recipe: cheap_distort(cheap_crop(x, s, recipe), s, recipe),
}


@contextlib.contextmanager
def cheap_views():
    """Stand-ins for the real views, which take seconds to trace."""
    pipelines, views = (
        {name: new for name, new in _CHEAP.items() if hasattr(module, name)}
        for module in (pipeline, view_making)
    )
    with mock.patch.multiple(pipeline, **pipelines), mock.patch.multiple(view_making, **views):
        yield


def train(kind, steps, *, real=False, source=None, recipes=RECIPES, **options):
    options = {"batch_size": BATCH, "seed": SEED, "jit_compile": False} | options
    with contextlib.nullcontext() if real else cheap_views():
        dataset = train_dataset(source or SOURCES[kind](), recipes, **options)
    return list(dataset.take(steps))


@functools.cache
def whole(kind, *, real=False):
    return train(kind, 8, real=real)


def assert_same(ours, others):
    assert len(ours) == len(others)
    for mine, other in zip(ours, others, strict=True):
        for left, right in zip(tf.nest.flatten(mine), tf.nest.flatten(other), strict=True):
            np.testing.assert_array_equal(left, right)


@functools.cache
def definition(size, recipe):
    """Traced once for all the sources that have images of the size."""
    signature = [tf.TensorSpec([*size, 3], tf.uint8), tf.TensorSpec([1, 2], tf.uint32)]
    return tf.function(lambda image, seed: make_view(image[None], seed, recipe)[0], signature)


@every_source
def test_batches_are_what_the_definition_says(kind):
    stream = index_stream(COUNT, BATCH, seed=SEED)
    source = SOURCES[kind]()
    # The size of a single image is unknown to the pipeline exactly when sizes differ.
    size = (None, None) if kind == "many_sizes" else (9, 7)
    for view, recipe in enumerate(RECIPES):
        make = definition(size, recipe)
        for batch, (counters, indices) in zip(whole(kind, real=True), stream, strict=False):
            np.testing.assert_array_equal(batch["index"], indices)
            np.testing.assert_array_equal(batch["label"], LABELS[indices])
            seeds = example_seeds(SEED, counters, view)
            for row in range(BATCH):
                expected = make(source.load(indices[row]), seeds[row : row + 1])
                np.testing.assert_allclose(batch["views"][view][row], expected, atol=1e-5)


@every_source
def test_shapes_are_static_and_the_stream_is_infinite(kind):
    options = {"batch_size": BATCH, "seed": SEED, "jit_compile": False}
    with cheap_views():
        dataset = train_dataset(SOURCES[kind](), RECIPES, **options)
    spec = dataset.element_spec
    assert [view.shape for view in spec["views"]] == [(BATCH, 8, 8, 3), (BATCH, 5, 5, 3)]
    assert {view.dtype for view in spec["views"]} == {tf.float32}
    assert (spec["label"].shape, spec["index"].shape) == ((BATCH,), (BATCH,))
    assert spec["label"].dtype == spec["index"].dtype == tf.int64
    assert len(whole(kind)) == 8  # of 2 steps per epoch


@pytest.mark.parametrize(("kind", "start"), [("resident", 1), ("one_size", 3), ("many_sizes", 6)])
def test_a_restart_is_the_tail_bit_for_bit(kind, start):
    assert_same(whole(kind)[start:], train(kind, 8 - start, start_step=start))


@pytest.mark.parametrize("kind", ["resident", "many_sizes"])
def test_compiled_views_are_the_same_and_compiled_anew_their_tail_bit_for_bit(kind):
    options = {"real": True, "recipes": RECIPES[1:]}
    compiled = train(kind, 8, jit_compile=True, **options)
    assert_same(compiled[3:], train(kind, 5, jit_compile=True, start_step=3, **options))
    for ours, others in zip(compiled, train(kind, 8, **options), strict=True):
        np.testing.assert_allclose(ours["views"][0], others["views"][0], atol=1e-5)


@every_source
def test_an_order_of_ones_own_keeps_the_draws_of_each_row(kind):
    """Row r of step s shows another image, with the same augmentation."""
    plain = index_stream(COUNT, BATCH, seed=SEED)
    usual = np.concatenate([indices for _, indices in plain.take(2)])
    assert_same(whole(kind)[:2], train(kind, 2, order=usual))
    usual[5] = usual[1]  # in step 1
    first, second = train(kind, 2, order=usual)
    assert_same(whole(kind)[:1], [first])
    assert second["index"][1] == usual[1]
    for rows in ([0], [2, 3]):
        np.testing.assert_array_equal(
            second["views"][0].numpy()[rows], whole(kind)[1]["views"][0].numpy()[rows]
        )
    assert_same([second], train(kind, 1, order=usual, start_step=1))


@every_source
def test_data_sets_can_share_their_views(kind):
    with cheap_views():
        views = view_maker(SOURCES[kind](), RECIPES, seed=SEED, jit_compile=False)
    assert_same(whole(kind)[:2], train(kind, 2, views=views))
    assert_same(whole(kind)[3:5], train(kind, 2, views=views, start_step=3))
    assert views.experimental_get_tracing_count() == 1


@every_source
def test_threads_do_not_change_the_result(kind):
    assert_same(whole(kind), train(kind, 8, num_parallel_calls=7))


def test_reading_one_by_one_is_the_same_as_resident():
    assert_same(whole("resident"), whole("one_size"))


def test_seeds_epochs_views_and_places_all_differ():
    source = dataclasses.replace(resident(), images=np.repeat(IMAGES[:1], COUNT, axis=0))
    batches = [
        view[row].numpy().tobytes()
        for seed in (0, 1)
        for batch in train(None, 4, source=source, recipes=(RECIPES[1],) * 2, seed=seed)
        for view in batch["views"]
        for row in range(BATCH)
    ]
    assert len(set(batches)) == 2 * 4 * 2 * BATCH


@every_source
def test_views_are_images(kind):
    for batch in whole(kind, real=True):
        for view in batch["views"]:
            assert 0.0 <= view.numpy().min() < 0.4
            assert 0.6 < view.numpy().max() <= 1.0


def test_unlabelled_sources_have_label_minus_one():
    source = dataclasses.replace(resident(), labels=np.full([COUNT], -1, np.int64), num_classes=0)
    (batch,) = train(None, 1, source=source)
    np.testing.assert_array_equal(batch["label"], [-1] * BATCH)


@pytest.mark.parametrize(("kind", "replicas"), [("resident", 4), ("many_sizes", 2)])
def test_replicas_share_the_global_batch_in_order(kind, replicas, strategy_of):
    strategy = strategy_of(replicas)
    options = {"batch_size": BATCH, "seed": SEED, "jit_compile": False}
    with cheap_views():
        dataset = train_dataset(SOURCES[kind](), RECIPES, **options)
    shared = strategy.experimental_distribute_dataset(dataset)
    for batch, expected in zip(shared, whole(kind)[:3], strict=False):
        rows = [
            np.concatenate([part.numpy() for part in strategy.experimental_local_results(value)])
            for value in (batch["index"], batch["views"][0])
        ]
        np.testing.assert_array_equal(rows[0], expected["index"])
        np.testing.assert_array_equal(rows[1], expected["views"][0])


def test_wrong_arguments_are_refused():
    assert steps_per_epoch(resident(), BATCH) == 2
    with pytest.raises(UserError, match="train_batch_size=12 is larger"):
        steps_per_epoch(resident(), 12)
    with pytest.raises(UserError, match="train_batch_size=12 is larger"):
        train_dataset(resident(), RECIPES, batch_size=12, seed=0)
    with pytest.raises(ValueError, match="recipes"):
        train_dataset(resident(), (), batch_size=2, seed=0)
    with pytest.raises(ValueError, match="start_step"):
        train_dataset(resident(), RECIPES, batch_size=2, seed=0, start_step=-1)


@pytest.mark.parametrize(("replicas", "start"), [(2, 0), (4, 3)])
@every_source
def test_shares_of_one_process_are_the_whole_batch_bit_for_bit(kind, replicas, start):
    """The same images in the same order whatever number of replicas a run is resumed on."""
    parts = train(kind, 3 * replicas, start_step=start, share=(0, replicas, replicas))
    steps = [parts[i : i + replicas] for i in range(0, len(parts), replicas)]
    joined = [tf.nest.map_structure(lambda *p: np.concatenate(p), *step) for step in steps]
    assert_same(joined, whole(kind)[start : start + 3])


@every_source
def test_shares_of_several_processes_are_the_whole_batch(kind):
    uneven = [(0, 1, 4), (1, 2, 4), (3, 1, 4)]
    shares = [(0, 1, 2), (1, 1, 2)] if kind == "one_size" else uneven
    parts = [train(kind, 3 * share[1], start_step=1, share=share) for share in shares]
    for step in range(3):
        pieces = [
            piece
            for part, share in zip(parts, shares, strict=True)
            for piece in part[step * share[1] : (step + 1) * share[1]]
        ]
        joined = tf.nest.map_structure(lambda *p: np.concatenate(p), *pieces)
        expected = whole(kind)[1 + step]
        np.testing.assert_array_equal(joined["index"], expected["index"])
        np.testing.assert_array_equal(joined["label"], expected["label"])
        for left, right in zip(joined["views"], expected["views"], strict=True):
            np.testing.assert_allclose(left, right, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["one_size", "many_sizes"])
def test_a_worker_reads_its_own_share_only(kind, toy_source):
    seen = []

    def note(index):
        seen.append(int(index))
        return index

    def read(index):
        return tf.ensure_shape(tf.numpy_function(note, [index], tf.int64), [])

    parts = train(None, 2, source=toy_source(kind, read), share=(2, 2, 4), num_parallel_calls=1)
    shown = [int(index) for part in parts for index in part["index"]]
    assert shown == [int(i) for i in whole(kind)[0]["index"][2:]]
    # What is read ahead are later rows of this share too.
    own = [int(i) for batch in train(kind, 40) for i in batch["index"][2:]]
    assert Counter(seen) <= Counter(own[: len(seen) + 16])
    everyone = [int(i) for batch in train(kind, 40) for i in batch["index"]]
    assert not Counter(everyone[: len(seen)]) <= Counter(own[: len(seen) + 16])
