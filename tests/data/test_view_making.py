"""The batched part of the views is the same on the host and within the step."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import ViewRecipe, example_seeds, make_view
from tfcontrast.data import Source, train_dataset, view_maker

COUNT, BATCH, SEED = 9, 6, 5
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, [COUNT, 12, 10, 3], np.uint8, endpoint=True)
LABELS = np.arange(COUNT, dtype=np.int64)
LARGE = ViewRecipe(
    image_size=8, crop_probability=1.0, flip_probability=0.5, jitter_probability=0.8,
    brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, blur_probability=0.5,
    grayscale_probability=0.2,
)  # fmt: skip
SMALL = ViewRecipe(image_size=4, crop_probability=1.0, crop_area=(0.1, 0.4), flip_probability=0.5)
RECIPES = (LARGE, SMALL, LARGE)
# For XLA, which takes seconds for the jitter: what it makes of it is tested in tests/augment.
PLAIN = ViewRecipe(
    image_size=8, crop_probability=1.0, flip_probability=0.5, grayscale_probability=0.2
)
COMPILED = (PLAIN, SMALL, PLAIN)


def source_of(kind):
    common = {"name": "toy", "split": "train", "num_examples": COUNT, "num_classes": COUNT}
    if kind == "resident":
        return Source(images=IMAGES, labels=LABELS, **common)
    images, labels = tf.constant(IMAGES), tf.constant(LABELS)

    def read(index):
        image = images[index][: 12 - tf.cast(index % 4, tf.int32)]
        return tf.ensure_shape(image, [None, None, 3]), labels[index]

    return Source(read=read, **common)


@functools.cache
def batches(kind, steps=2, *, recipes=RECIPES, **options):
    options = {"batch_size": BATCH, "seed": SEED, "jit_compile": False} | options
    return list(train_dataset(source_of(kind), recipes, **options).take(steps))


@functools.cache
def views_in_the_step(kind):
    """Traced once for all tests."""
    return view_maker(source_of(kind), RECIPES, seed=SEED, jit_compile=False, host=False)


every_kind = pytest.mark.parametrize("kind", ["resident", "many sizes"])


@every_kind
def test_the_readers_views_are_the_pipelines(kind):
    make = views_in_the_step(kind)
    for whole, rest in zip(batches(kind), batches(kind, unfinished=True), strict=True):
        assert rest.keys() == {"images", "counter", "label", "index"}
        for name in ("label", "index"):
            np.testing.assert_array_equal(rest[name], whole[name])
        views = make(rest["images"], rest["counter"])
        for view, expected in zip(views, whole["views"], strict=True):
            np.testing.assert_allclose(view, expected, atol=1e-6)


def test_resident_images_travel_as_they_are():
    batch, _ = batches("resident", unfinished=True)
    assert batch["images"].dtype == tf.uint8
    np.testing.assert_array_equal(batch["images"], IMAGES[batch["index"]])


def test_unfinished_shares_are_the_whole_batch():
    whole = batches("resident", unfinished=True)
    parts = batches("resident", 4, unfinished=True, share=(0, 2, 2))
    for number, batch in enumerate(whole):
        halves = parts[2 * number : 2 * number + 2]
        for name, rows in batch.items():
            np.testing.assert_array_equal(np.concatenate([h[name] for h in halves]), rows)


@pytest.mark.parametrize("host", [True, False])
@every_kind
def test_compiled_they_are_the_same_views(kind, host):
    make = view_maker(source_of(kind), COMPILED, seed=SEED, host=host)
    (expected,) = batches(kind, 1, recipes=COMPILED)
    (batch,) = batches(kind, 1, recipes=COMPILED, unfinished=True)
    views = make(batch["images"], batch["counter"])
    for view, other in zip(views, expected["views"], strict=True):
        np.testing.assert_allclose(view, other, atol=1e-5)
    assert np.abs(views[0] - views[2]).max() > 0.1


def test_they_are_the_views_of_the_definition():
    batch, _ = batches("resident", unfinished=True)
    views = views_in_the_step("resident")(batch["images"], batch["counter"])
    for number, recipe in enumerate(RECIPES):
        seeds = example_seeds(SEED, batch["counter"], number)
        expected = make_view(batch["images"], seeds, recipe)
        np.testing.assert_allclose(views[number], expected, atol=1e-5)
