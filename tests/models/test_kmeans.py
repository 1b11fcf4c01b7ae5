import importlib

import numpy as np
import pytest

from tfcontrast.models import kmeans

# The package's attribute of this name is the function.
ROOM = importlib.import_module("tfcontrast.models.kmeans")

VARIANTS = [(False, "keep"), (False, "split"), (True, "keep"), (True, "split")]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def blobs(rng, *, clusters=5, each=40, dim=6, spread=0.05):
    """Rows around far corners, shuffled, with their corner's number."""
    corners = unit(rng.normal(size=(clusters, dim))) * 3
    numbers = rng.permutation(np.repeat(np.arange(clusters), each))
    return corners[numbers] + spread * rng.normal(size=(len(numbers), dim)), numbers


def plain_lloyd(rows, centroids, iterations, spherical):
    """The algorithm written plainly in float64, empty clusters kept."""
    for _ in range(iterations):
        distances = ((rows[:, None] - centroids[None]) ** 2).sum(-1)
        nearest = distances.argmin(1)
        for k in range(len(centroids)):
            if (nearest == k).any():
                centroids[k] = rows[nearest == k].mean(0)
        if spherical:
            centroids = unit(centroids)
    return centroids, ((rows[:, None] - centroids[None]) ** 2).sum(-1).argmin(1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("spherical", [False, True])
def test_equals_lloyds_algorithm(rng, spherical):
    rows = rng.normal(size=(300, 4))
    rows = unit(rows) if spherical else rows
    found = kmeans(rows, 12, iterations=4, seed=5, spherical=spherical)
    first = kmeans(rows, 12, iterations=1, seed=5, spherical=spherical)
    again = np.random.default_rng([5, ROOM._FIRST_ROWS]).choice(300, 12, replace=False)
    start = rows[np.sort(again)].copy()
    centroids, nearest = plain_lloyd(rows, start.copy(), 4, spherical)
    np.testing.assert_allclose(found.centroids, centroids, atol=1e-5)
    np.testing.assert_array_equal(found.assignments, nearest)
    once, _ = plain_lloyd(rows, start.copy(), 1, spherical)
    np.testing.assert_allclose(first.centroids, once, atol=1e-5)


@pytest.mark.parametrize(("spherical", "empty"), VARIANTS)
def test_finds_separate_clusters(rng, spherical, empty):
    rows, numbers = blobs(rng)
    # The best of some seeds: one start may put two centroids into one blob.
    found = min(
        (
            kmeans(rows, 5, iterations=10, seed=seed, spherical=spherical, empty=empty)
            for seed in range(8)
        ),
        key=lambda clusters: clusters.objectives[-1],
    )
    pairs = {(int(a), int(b)) for a, b in zip(numbers, found.assignments, strict=True)}
    assert len(pairs) == 5


@pytest.mark.parametrize("spherical", [False, True])
def test_the_objective_never_rises_and_is_the_mean_distance(rng, spherical):
    rows = rng.normal(size=(400, 5))
    found = kmeans(rows, 20, iterations=15, seed=1, spherical=spherical)
    assert len(found.objectives) == 16
    assert np.all(np.diff(found.objectives) <= 1e-6)
    assert found.objectives[-1] < 0.9 * found.objectives[0]
    own = found.centroids[found.assignments]
    if spherical:
        expected = np.mean(1 - np.sum(unit(rows) * own, axis=1))
    else:
        expected = np.mean(np.sum((rows - own) ** 2, axis=1))
    assert found.objectives[-1] == pytest.approx(expected, rel=1e-5)


def test_spherical_centroids_have_length_one_and_scale_does_not_count(rng):
    rows = rng.normal(size=(200, 5))
    found = kmeans(rows, 9, iterations=3, seed=2, spherical=True)
    np.testing.assert_allclose(np.linalg.norm(found.centroids, axis=1), 1, atol=1e-6)
    nearest = (unit(rows) @ found.centroids.T).argmax(1)
    np.testing.assert_array_equal(found.assignments, nearest)
    longer = kmeans(rows * rng.uniform(0.1, 9, [200, 1]), 9, iterations=3, seed=2, spherical=True)
    np.testing.assert_array_equal(found.assignments, longer.assignments)


@pytest.mark.parametrize(("spherical", "empty"), VARIANTS)
def test_as_many_clusters_as_rows_gives_each_its_own(rng, spherical, empty):
    rows = rng.normal(size=(30, 8))
    found = kmeans(rows, 30, iterations=3, seed=0, spherical=spherical, empty=empty)
    assert sorted(found.assignments) == list(range(30))
    assert found.objectives[-1] == pytest.approx(0, abs=1e-5)


def test_chunks_change_nothing(rng, monkeypatch):
    rows = rng.normal(size=(101, 4))
    whole = kmeans(rows, 7, iterations=5, seed=3)
    monkeypatch.setattr(ROOM, "_SCORES", 7 * 10)
    parts = kmeans(rows, 7, iterations=5, seed=3)
    np.testing.assert_array_equal(whole.assignments, parts.assignments)
    np.testing.assert_allclose(whole.centroids, parts.centroids, atol=1e-6)
    assert whole.objectives == pytest.approx(parts.objectives, rel=1e-5)


@pytest.mark.parametrize(("spherical", "empty"), VARIANTS)
def test_a_seed_decides_everything(rng, spherical, empty):
    rows = np.concatenate([rng.normal(size=(100, 4)), np.ones([100, 4])])
    options = {"iterations": 4, "spherical": spherical, "empty": empty}
    one, same, other = (kmeans(rows, 11, seed=seed, **options) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.centroids, same.centroids)
    np.testing.assert_array_equal(one.assignments, same.assignments)
    assert one.objectives == same.objectives
    assert np.any(one.centroids != other.centroids)


def test_an_empty_cluster_keeps_its_centroid():
    # Most rows are at one place, so that several first centroids are too, and only one wins.
    rows = np.array([[1.0, 0.0]] * 50 + [[0.0, 1.0]], np.float32)
    found = kmeans(rows, 4, iterations=6, seed=0, spherical=True)
    sizes = np.bincount(found.assignments, minlength=4)
    assert (sizes == 0).sum() >= 2
    empty = found.centroids[sizes == 0]
    np.testing.assert_array_equal(empty, np.tile([[1.0, 0.0]], [len(empty), 1]))


def test_an_empty_cluster_splits_a_large_one(rng):
    rows = np.concatenate([np.tile([[9.0, 9.0]], [60, 1]), rng.normal([3, -3], 0.5, [60, 2])])
    keep = kmeans(rows, 12, iterations=20, seed=4, empty="keep")
    split = kmeans(rows, 12, iterations=20, seed=4, empty="split")
    used_kept, used_split = (len(set(found.assignments)) for found in (keep, split))
    assert used_split > used_kept
    assert split.objectives[-1] < keep.objectives[-1]


def test_the_halves_of_a_split_cluster_lie_around_it():
    centroids = np.array([[4.0, -2.0, 1.0], [7.0, 7.0, 7.0], [5.0, 5.0, 5.0]], np.float32)
    sizes = np.array([100, 0, 1])
    found = ROOM._split(centroids, sizes, np.random.default_rng(0))
    np.testing.assert_allclose((found[0] + found[1]) / 2, centroids[0], rtol=1e-6)
    np.testing.assert_allclose(np.abs(found[0] / centroids[0] - 1), 1 / 1024, rtol=1e-3)
    np.testing.assert_array_equal(found[2], centroids[2])  # a single row cannot be shared
    assert centroids[1, 0] == 7  # the argument is left alone


def test_a_zero_row_is_finite_everywhere():
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    found = kmeans(rows, 2, iterations=3, seed=0, spherical=True)
    assert np.isfinite(found.centroids).all()


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (np.zeros([3, 2]), {"count": 4}, "from 1 to the number of rows.*4 and 3 rows"),
        (np.zeros([3, 2]), {"count": 0}, "from 1 to the number of rows.*0 and 3"),
        (np.full([3, 2], np.nan), {}, r"finite matrix.*\(3, 2\)"),
        (np.zeros([3]), {}, r"finite matrix.*\(3,\)"),
        (np.zeros([3, 2]), {"iterations": 0}, "at least 1.*0"),
        (np.zeros([3, 2]), {"empty": "drop"}, "keep, split.*'drop'"),
    ],
)
def test_bad_input(rows, options, message):
    options = {"count": 2, "iterations": 1, "seed": 0, **options}
    with pytest.raises(ValueError, match=message):
        kmeans(rows, **options)
