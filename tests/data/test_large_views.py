"""Views by chunks, one after the other: of images of many sizes, and of resident ones."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import ViewRecipe, example_seeds, make_view
from tfcontrast.data import Source, pipeline, train_dataset

COUNT, BATCH, SEED = 7, 6, 3
IMAGES = np.random.default_rng(0).integers(0, 255, [COUNT, 90, 80, 3], np.uint8, endpoint=True)
# Without the jitter, which XLA takes seconds for: what it makes of it is tested in tests/augment.
RECIPES = (
    ViewRecipe(image_size=64, crop_probability=1.0, crop_area=(0.3, 1.0), flip_probability=0.5,
               solarize_probability=0.5, blur_probability=0.5, blur_kernel_size=5),
    ViewRecipe(image_size=5, crop_probability=0.8, crop_area=(0.2, 0.8), grayscale_probability=0.5),
)  # fmt: skip


def source():
    images, labels = tf.constant(IMAGES), tf.zeros([COUNT], tf.int64)

    def read(index):
        image = images[index][: 90 - tf.cast(index % 5, tf.int32)]
        return tf.ensure_shape(image, [None, None, 3]), labels[index]

    return Source(name="toy", split="train", num_examples=COUNT, num_classes=1, read=read)


def resident():
    labels = np.zeros([COUNT], np.int64)
    return Source(
        name="toy", split="train", num_examples=COUNT, num_classes=1, images=IMAGES, labels=labels
    )


SOURCES = {"many sizes": source, "resident": resident}
every_source = pytest.mark.parametrize("kind", SOURCES)
VIEWS = {}


def train(steps, kind="many sizes", **options):
    """Batches of 6 in chunks of 2, with one compilation for each kind."""
    if kind not in VIEWS:
        VIEWS[kind] = pipeline.view_maker(SOURCES[kind](), RECIPES, seed=SEED)
    options = {"batch_size": BATCH, "seed": SEED, "views": VIEWS[kind]} | options
    return list(train_dataset(SOURCES[kind](), RECIPES, **options).take(steps))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(pipeline, "_CHUNK", 2)


def assert_same(ours, others):
    for left, right in zip(tf.nest.flatten(ours), tf.nest.flatten(others), strict=True):
        np.testing.assert_array_equal(left, right)


def test_they_are_the_views_of_the_definition():
    (batch,) = train(1)
    assert [view.shape for view in batch["views"]] == [(6, 64, 64, 3), (6, 5, 5, 3)]
    for view, recipe in enumerate(RECIPES):
        # TensorFlow's kernel resizes one image only where its size is unknown.
        make = tf.function(
            lambda x, s, recipe=recipe: make_view(x[None], s, recipe)[0],
            input_signature=[
                tf.TensorSpec([None, None, 3], tf.uint8),
                tf.TensorSpec([1, 2], tf.uint32),
            ],
        )
        seeds = example_seeds(SEED, tf.range(BATCH, dtype=tf.int64), view)
        for row, index in enumerate(batch["index"].numpy()):
            expected = make(source().load(tf.constant(index)), seeds[row : row + 1])
            np.testing.assert_allclose(batch["views"][view][row], expected, atol=1e-5)


def test_resident_images_are_seen_whole_in_the_order_of_the_stream():
    """Chunks that are joined: every row is the view of its own image, by its own seed."""
    for step, batch in enumerate(train(2, "resident")):
        seeds = example_seeds(SEED, tf.range(BATCH, dtype=tf.int64) + step * BATCH, 0)
        expected = make_view(IMAGES[batch["index"].numpy()], seeds, RECIPES[0])
        np.testing.assert_allclose(batch["views"][0], expected, atol=1e-5)


@every_source
def test_a_restart_is_the_tail_bit_for_bit_whatever_the_threads(kind):
    whole = train(4, kind)
    assert_same(train(2, kind, start_step=2), whole[2:])
    assert_same(train(4, kind, num_parallel_calls=5), whole)


@every_source
def test_processes_that_share_a_batch_make_its_rows_bit_for_bit(kind):
    """Both compile chunks of two, so that here even rounding is the same."""
    whole = train(2, kind)
    parts = [train(2 * count, kind, share=(first, count, 3)) for first, count in ((0, 1), (1, 2))]
    joined = [
        tf.nest.map_structure(
            lambda *p: np.concatenate(p), parts[0][i], *parts[1][2 * i : 2 * i + 2]
        )
        for i in range(2)
    ]
    assert_same(joined, whole)


@pytest.mark.parametrize(
    ("most", "rows", "expected"),
    [(16, 256, 16), (16, 100, 10), (16, 24, 12), (16, 37, 37), (2, 1, 1)],
)
def test_a_chunk_divides_the_batch(monkeypatch, most, rows, expected):
    monkeypatch.setattr(pipeline, "_CHUNK", most)
    assert pipeline._chunk_of(rows, RECIPES) == expected


def test_chunks_of_small_views_are_larger():
    assert pipeline._chunk_of(256, RECIPES[1:]) == 256
    assert pipeline._chunk_of(4096, RECIPES[1:]) == 1024


def test_views_of_one_recipe_keep_their_places_and_seeds():
    """They are made as one batch, around the view of another recipe."""
    small = ViewRecipe(image_size=5, crop_probability=1.0, crop_area=(0.2, 0.8))
    recipes = (small, ViewRecipe(image_size=6, flip_probability=0.5), small)
    dataset = train_dataset(resident(), recipes, batch_size=BATCH, seed=SEED, jit_compile=False)
    (batch,) = dataset.take(1)
    images = IMAGES[batch["index"].numpy()]
    for view, recipe in enumerate(recipes):
        seeds = example_seeds(SEED, tf.range(BATCH, dtype=tf.int64), view)
        expected = make_view(images, seeds, recipe)
        np.testing.assert_allclose(batch["views"][view], expected, atol=1e-5)
    assert np.abs(batch["views"][0] - batch["views"][2]).max() > 0.1
