import numpy as np
import pytest

from tfcontrast.models import whitening
from tfcontrast.models.whitening import whiten

RNG = np.random.default_rng(0)
# Correlated features of very different scales, away from zero.
ROWS = (RNG.normal(size=[500, 12]) * np.logspace(-1, 1, 12)) @ RNG.normal(size=[12, 12]) + 7


@pytest.mark.parametrize("dim", [1, 5, 12])
def test_the_covariance_is_the_identity(dim):
    found = whiten(ROWS.astype(np.float32), dim)
    assert (found.dtype, found.shape) == (np.float32, (500, dim))
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(found.T @ found / 500, np.eye(dim), atol=2e-3)


def test_it_is_the_singular_value_decompositions_up_to_signs():
    left, values, _ = np.linalg.svd(ROWS - ROWS.mean(0), full_matrices=False)
    assert np.all(np.diff(values) < 0)
    expected = left[:, :5] * np.sqrt(500)
    np.testing.assert_allclose(np.abs(whiten(ROWS, 5)), np.abs(expected), atol=1e-4)


def test_chunks_do_not_matter(monkeypatch):
    whole = whiten(ROWS, 6)
    monkeypatch.setattr(whitening, "_ROWS", 7)
    np.testing.assert_allclose(np.abs(whiten(ROWS, 6)), np.abs(whole), atol=1e-4)


def test_what_has_no_variance_is_zero_and_not_noise():
    """A dead feature, a repeated one, and more components than there are features."""
    rows = np.concatenate([ROWS[:, :3], ROWS[:, :1], np.full([500, 1], 0.1)], 1)
    found = whiten(rows.astype(np.float32), 256)
    assert found.shape == (500, 5)
    np.testing.assert_allclose(found.T @ found / 500, np.diag([1, 1, 1, 0, 0]), atol=1e-3)
    np.testing.assert_array_equal(found[:, 3:], 0)
    few = whiten(ROWS[:4], 12)  # 4 rows span 3 directions
    np.testing.assert_allclose(few.T @ few / 4, np.diag([1] * 3 + [0] * 9), atol=1e-4)
    np.testing.assert_array_equal(whiten(np.ones([3, 2]), 2), 0)


@pytest.mark.parametrize(
    ("rows", "dim"),
    [(np.ones(3), 1), (np.full([3, 2], np.nan), 1), (np.ones([0, 2]), 1), (np.ones([3, 2]), 0)],
)
def test_bad_arguments(rows, dim):
    with pytest.raises(ValueError, match=r"Received: "):
        whiten(rows, dim)
