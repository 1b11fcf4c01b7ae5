import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import (
    ViewRecipe,
    crop_boxes,
    crop_view,
    distort_view,
    example_seeds,
    make_view,
    view_recipes,
)
from tfcontrast.augment import views as views_module

FULL = ViewRecipe(
    image_size=16,
    crop_probability=0.8,
    crop_area=(0.3, 1.0),
    flip_probability=0.5,
    rotate_degrees=20.0,
    translate=0.1,
    zoom=0.1,
    shear=0.1,
    jitter_probability=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    grayscale_probability=0.2,
    blur_probability=0.5,
    blur_kernel_size=3,
    solarize_probability=0.2,
    erase_probability=0.5,
    noise_stddev=0.05,
)

# One recipe for each way through the code; the others differ in numbers only.
NAMES = ["simclr_v1", "simclr_v2", "supcontrast", "moco_v1", "dino", "digits", "identity", "full"]


def recipe_of(name):
    return FULL if name == "full" else view_recipes(name, image_size=16)[0]


def pictures(count=24, side=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


def seeds_of(count, seed=0, view=0):
    return example_seeds(seed, tf.range(count, dtype=tf.int64), view)


@pytest.mark.parametrize("name", NAMES)
def test_views_are_in_range_repeatable_and_the_same_everywhere(name):
    recipe, images, seeds = recipe_of(name), tf.constant(pictures()), seeds_of(24)

    def view(pixels, keys):
        return make_view(pixels, keys, recipe)

    eager = view(images, seeds).numpy()
    assert eager.shape == (24, 16, 16, 3)
    assert eager.dtype == np.float32
    assert eager.min() >= 0.0
    assert eager.max() <= 1.0
    np.testing.assert_array_equal(view(images, seeds), eager)
    graph = tf.function(view)  # one trace for both
    compiled = tf.function(lambda pixels, keys: graph(pixels, keys), jit_compile=True)
    np.testing.assert_allclose(compiled(images, seeds), eager, atol=3e-5)
    dataset = tf.data.Dataset.from_tensors((images, seeds)).map(graph)
    np.testing.assert_allclose(next(iter(dataset)), eager, atol=3e-5)
    assert graph.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_view_does_not_depend_on_its_batch(name):
    recipe, images, seeds = recipe_of(name), pictures(), seeds_of(24)
    together = make_view(images, seeds, recipe).numpy()
    order = np.random.default_rng(0).permutation(24)
    shuffled = make_view(images[order], tf.gather(seeds, order), recipe)
    np.testing.assert_allclose(shuffled, together[order], atol=1e-5)
    for row in (0, 11):
        alone = make_view(images[row : row + 1], seeds[row : row + 1], recipe)
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


@pytest.mark.parametrize("name", ["simclr_v2", "supcontrast", "crop_flip", "digits", "full"])
def test_another_seed_or_view_changes_every_image(name):
    recipe, images = recipe_of(name), pictures()
    base = make_view(images, seeds_of(24), recipe).numpy()
    for seeds in (seeds_of(24, seed=1), seeds_of(24, view=1)):
        other = make_view(images, seeds, recipe).numpy()
        assert (np.abs(base - other).reshape(24, -1).max(axis=1) > 1e-3).all()


@pytest.mark.parametrize("name", ["simclr_v2", "supcontrast", "crop_flip", "full"])
def test_a_streamed_image_of_unknown_size_gives_the_same_crop(name):
    recipe, images, seeds = recipe_of(name), pictures(6), seeds_of(6)
    spec = [tf.TensorSpec([1, None, None, 3], tf.uint8), tf.TensorSpec([1, 2], tf.uint32)]
    streamed = tf.function(lambda i, s: crop_view(i, s, recipe), input_signature=spec)
    together = crop_view(images, seeds, recipe)
    for row in range(6):
        one = streamed(images[row : row + 1], seeds[row : row + 1])
        np.testing.assert_allclose(one[0], together[row], atol=2e-3)


def test_crop_view_cuts_the_boxes_that_crop_boxes_tells():
    recipe = ViewRecipe(image_size=16, crop_probability=0.5, crop_area=(0.3, 0.9))
    images, seeds = pictures(40), seeds_of(40)
    boxes = crop_boxes(seeds, 20, 20, recipe).numpy()
    whole = (boxes == [0, 0, 20, 20]).all(axis=1)
    assert 10 < whole.sum() < 30
    views = crop_view(images, seeds, recipe)
    for row, (y, x, h, w) in enumerate(boxes):
        cut = images[row, y : y + h, x : x + w] / 255.0
        expected = np.clip(tf.image.resize(cut, [16, 16], "bicubic"), 0, 1)
        np.testing.assert_allclose(views[row], expected, atol=3e-3)
    sizes = tf.constant([[20, 20]] * 40)
    np.testing.assert_array_equal(crop_boxes(seeds, sizes[:, 0], sizes[:, 1], recipe), boxes)


def gradient_images(count, side=32):
    """Coloured, brighter to the right: a flip shows in the slope, greyness in the channels."""
    ramp = np.linspace(0.3, 0.6, side)[None, None, :, None] * np.array([1.0, 0.8, 0.6])
    return np.broadcast_to(ramp, (count, side, side, 3)).astype(np.float32)


def is_close_to(count, total, probability):
    return abs(count / total - probability) < 4.5 * np.sqrt(probability * (1 - probability) / total)


@pytest.mark.parametrize("name", ["simclr_v1", "simclr_v2", "supcontrast"])
def test_shares_of_flipped_grey_and_jittered_views(name):
    total = 4000
    # Weak jitter, or else additive brightness makes black and white pictures, which are grey too.
    recipe = view_recipes(name, image_size=8, use_blur=False, color_jitter_strength=0.2)[0]
    images, seeds = gradient_images(total, 8), seeds_of(total)
    cropped = crop_view(images, seeds, recipe).numpy()
    slope = cropped[:, :, -1, 0].mean(axis=1) - cropped[:, :, 0, 0].mean(axis=1)
    assert is_close_to((slope < 0).sum(), total, 0.5)
    views = distort_view(cropped, seeds, recipe).numpy()
    grey = np.ptp(views, axis=-1).max(axis=(1, 2)) < 1e-5
    assert is_close_to(grey.sum(), total, 0.2)
    unchanged = (views == cropped).all(axis=(1, 2, 3))
    assert is_close_to(unchanged.sum(), total, 0.2 * 0.8)
    flipped_and_grey = ((slope < 0) & grey).sum()
    assert is_close_to(flipped_and_grey, total, 0.1)


@pytest.mark.parametrize(
    ("name", "floor"), [("simclr_v2", 0.1), ("crop_flip", 0.1), ("supcontrast", 0.19)]
)
def test_areas_of_the_recipes(name, floor):
    boxes = crop_boxes(seeds_of(4000), 32, 32, view_recipes(name, image_size=32)[0]).numpy()
    area = boxes[:, 2] * boxes[:, 3] / 1024
    assert floor <= area.min() < floor + 0.03
    assert 0.93 < area.max() <= 1.0


def amounts_seen(monkeypatch, recipe, total=20000):
    seen = {}

    def record(images, amounts, places, **options):
        seen.update(amounts=amounts.numpy(), places=places.numpy(), options=options)
        return images

    monkeypatch.setattr(views_module, "color_jitter", record)
    distort_view(tf.zeros([total, 1, 1, 3]), seeds_of(total), recipe)
    return seen


@pytest.mark.parametrize(
    ("name", "strength", "ranges"),
    [
        ("simclr_v2", None, [(0.2, 1.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2)]),
        ("simclr_v2", 0.5, [(0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1)]),
        ("simclr_v2", 2.0, [(0.0, 2.6), (0.0, 2.6), (0.0, 2.6), (-0.4, 0.4)]),
        ("simclr_v1", None, [(-0.8, 0.8), (0.2, 1.8), (0.2, 1.8), (-0.2, 0.2)]),
        ("supcontrast", None, [(0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1)]),
    ],
)
def test_amounts_of_the_colour_jitter(monkeypatch, name, strength, ranges):
    recipe = view_recipes(name, image_size=8, color_jitter_strength=strength)[0]
    seen = amounts_seen(monkeypatch, recipe)
    neutral = [0.0 if name == "simclr_v1" else 1.0, 1.0, 1.0, 0.0]
    live = (seen["amounts"] != np.float32(neutral)).any(axis=1)
    assert is_close_to(live.sum(), len(live), 0.8)
    for column, (low, high) in enumerate(ranges):
        values = seen["amounts"][live, column]
        span = high - low
        assert low - 1e-6 <= values.min() < low + 0.01 * span
        assert high - 0.01 * span < values.max() <= high + 1e-6
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * span)
    assert abs(np.corrcoef(seen["amounts"][live].T) - np.eye(4)).max() < 0.04
    assert len(np.unique(seen["places"], axis=0)) == 24
    assert seen["options"]["contrast_mean"] == ("grey" if name == "supcontrast" else "channel")


def test_blur_widths_are_drawn_per_image(monkeypatch):
    seen = {}

    def record(images, sigmas, mask, kernel_size, **_):
        seen.update(sigmas=sigmas.numpy(), mask=mask.numpy(), kernel_size=kernel_size)
        return images

    monkeypatch.setattr(views_module, "gaussian_blur", record)
    recipe = dataclasses.replace(view_recipes("simclr_v2", image_size=224)[0], jitter_probability=0)
    distort_view(tf.zeros([4000, 1, 1, 3]), seeds_of(4000), recipe)
    assert seen["kernel_size"] == 23
    assert is_close_to(seen["mask"].sum(), 4000, 0.5)
    assert 0.1 <= seen["sigmas"].min() < 0.12
    assert 1.98 < seen["sigmas"].max() <= 2.0
    assert len(np.unique(seen["sigmas"])) > 3900


def test_strength_zero_leaves_the_crop_bit_for_bit():
    recipe = dataclasses.replace(
        view_recipes("simclr_v2", image_size=16, color_jitter_strength=0.0, use_blur=False)[0],
        grayscale_probability=0.0,
    )
    images, seeds = pictures(), seeds_of(24)
    np.testing.assert_array_equal(
        make_view(images, seeds, recipe), crop_view(images, seeds, recipe)
    )


def test_identity_is_the_image():
    images = pictures(4, side=16)
    got = make_view(images, seeds_of(4), view_recipes("identity", image_size=16)[0])
    np.testing.assert_allclose(got, images / 255.0, atol=1e-7)


def test_switching_one_change_on_leaves_the_others_draws_alone():
    base = view_recipes("simclr_v2", image_size=16, use_blur=False)[0]
    images, seeds = pictures(200), seeds_of(200)
    plain = make_view(images, seeds, base).numpy()
    solarized = make_view(images, seeds, dataclasses.replace(base, solarize_probability=0.2))
    same = (solarized.numpy() == plain).all(axis=(1, 2, 3))
    assert is_close_to(200 - same.sum(), 200, 0.2)


def test_erased_squares_are_grey_inside_and_sized_in_range():
    recipe = ViewRecipe(image_size=20, erase_probability=0.5, erase_side=(0.1, 0.3))
    views = distort_view(tf.zeros([600, 20, 20, 3]), seeds_of(600), recipe).numpy()[..., 0]
    areas = (views == 0.5).sum(axis=(1, 2))
    assert set(np.unique(areas)) == {0, 4, 9, 16, 25, 36}
    assert is_close_to((areas > 0).sum(), 600, 0.5)


def test_affine_turns_shifts_and_zooms_within_range():
    spot = np.zeros((500, 41, 41, 3), np.float32)
    spot[:, 20, 20] = 1.0
    moved = ViewRecipe(image_size=41, translate=0.2)
    views = distort_view(spot, seeds_of(500), moved).numpy()[..., 0]
    mass = views / views.sum(axis=(1, 2), keepdims=True)
    down = (mass.sum(2) * np.arange(41)).sum(1) - 20
    assert 7.8 < np.abs(down).max() <= 8.2 + 1e-5
    line = np.zeros((500, 41, 41, 3), np.float32)
    line[:, :, 20] = 1.0
    turned = distort_view(line, seeds_of(500), ViewRecipe(image_size=41, rotate_degrees=30.0))
    top = (turned[:, 5, :, 0].numpy() * np.arange(41)).sum(1) / turned[:, 5, :, 0].numpy().sum(1)
    angles = np.degrees(np.arctan2(20 - top, 15))
    assert 29 < angles.max() < 31
    assert -31 < angles.min() < -29


def test_grey_first_keeps_the_hues_shift_off_grey_images():
    # A hue shift changes how bright a colour is: red and blue have other luminances. Before the
    # jitter the grey value is the image's own, after it that of the shifted colours.
    options = {"image_size": 8, "jitter_probability": 1.0, "hue": 0.4, "grayscale_probability": 1.0}
    images = np.broadcast_to(np.float32([0.8, 0.1, 0.1]), (60, 8, 8, 3))
    first = distort_view(images, seeds_of(60), ViewRecipe(**options, grayscale_first=True)).numpy()
    after = distort_view(images, seeds_of(60), ViewRecipe(**options)).numpy()
    own = 0.2989 * 0.8 + 0.587 * 0.1 + 0.114 * 0.1
    np.testing.assert_allclose(first, own, atol=1e-3)
    assert np.ptp(after, axis=-1).max() < 1e-6
    assert np.abs(after - own).max() > 0.15
    some = {**options, "grayscale_probability": 0.5}
    chosen = [
        np.ptp(distort_view(images, seeds_of(60), ViewRecipe(**some, grayscale_first=order)), -1)
        .max((1, 2)) < 1e-6
        for order in (False, True)
    ]  # fmt: skip
    np.testing.assert_array_equal(*chosen)
    assert 15 < chosen[0].sum() < 45


def test_digits_views_keep_their_class():
    from sklearn.datasets import load_digits
    from sklearn.neighbors import KNeighborsClassifier

    data = load_digits()
    images = np.repeat(data.images[..., None] / 16.0, 3, axis=-1).astype(np.float32)
    recipe = view_recipes("digits", image_size=8)[0]
    views = make_view(images, seeds_of(len(images)), recipe).numpy()
    knn = KNeighborsClassifier(5).fit(data.data[:900], data.target[:900])
    score = knn.score(views[900:, ..., 0].reshape(-1, 64) * 16.0, data.target[900:])
    assert 0.6 < score < 0.95
