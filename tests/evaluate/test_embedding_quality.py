import numpy as np
import pytest
from sklearn.datasets import load_digits

from tfcontrast.evaluate import alignment, effective_rank, embedding_quality, uniformity


def golden_views():
    i, j = np.arange(4)[:, None], np.arange(6)[None]
    z1 = np.sin(1 + 0.7 * i + 1.3 * j + 0.11 * i * j)
    z2 = np.cos(0.5 + 0.9 * i + 0.8 * j + 0.07 * i * j)
    return z1, z2


def test_golden_values():
    """Computed once in numpy float64 from the definitions."""
    z1, z2 = golden_views()
    assert alignment(z1, z2) == pytest.approx(0.8283727228, abs=1e-9)
    assert uniformity(z1) == pytest.approx(-2.3302097994, abs=1e-9)
    assert uniformity(z2) == pytest.approx(-2.8349210946, abs=1e-9)


@pytest.mark.parametrize("rows", [2, 3, 100])
def test_equal_the_loops_in_any_chunks(monkeypatch, rows):
    monkeypatch.setattr(embedding_quality, "_CHUNK_ROWS", rows)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 13, 5)).astype(np.float32)
    u = [v / np.linalg.norm(v) for v in x.astype(float)]
    w = [v / np.linalg.norm(v) for v in y.astype(float)]
    for alpha in (1.0, 2.0):
        expected = np.mean([np.linalg.norm(a - b) ** alpha for a, b in zip(u, w, strict=True)])
        assert alignment(x, y, alpha=alpha) == pytest.approx(expected, abs=1e-10)
    for t in (0.5, 2.0):
        terms = [np.exp(-t * np.sum((u[i] - u[j]) ** 2)) for i in range(13) for j in range(i)]
        assert uniformity(x, t=t) == pytest.approx(np.log(np.mean(terms)), abs=1e-10)
    for center in (False, True):
        sigma = np.linalg.svd(x - center * x.mean(0), compute_uv=False)
        p = sigma / sigma.sum() + 1e-7
        expected = np.exp(-np.sum(p * np.log(p)))
        assert effective_rank(x, center=center) == pytest.approx(expected, rel=1e-6)


def test_limits_of_uniformity():
    rng = np.random.default_rng(0)
    assert uniformity(np.ones([10, 3])) == pytest.approx(0, abs=1e-12)
    assert uniformity(rng.normal(size=(1024, 128))) == pytest.approx(-3.94, abs=0.01)
    angles = rng.uniform(0, 2 * np.pi, 4000)
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert uniformity(circle) == pytest.approx(-1.58, abs=0.02)


def test_length_does_not_matter_and_equal_views_align():
    x = np.random.default_rng(0).normal(size=(20, 4))
    assert alignment(x, 3 * x) == pytest.approx(0, abs=1e-12)
    assert alignment(x, -x) == pytest.approx(4)
    assert uniformity(np.arange(1, 21)[:, None] * x) == pytest.approx(uniformity(x))


def test_effective_rank_of_known_matrices():
    rng = np.random.default_rng(0)
    line = np.outer(rng.normal(size=50), rng.normal(size=8))
    assert effective_rank(line) == pytest.approx(1, abs=1e-4)
    assert effective_rank(np.tile(np.eye(8), [10, 1])) == pytest.approx(8, rel=1e-4)
    assert effective_rank(np.tile(np.eye(8), [10, 1]), center=True) == pytest.approx(7, rel=1e-4)
    # the value that the evaluation notes give for the raw digits
    assert effective_rank(load_digits().data) == pytest.approx(29.62995, abs=1e-4)


@pytest.mark.parametrize(
    "call",
    [
        lambda: alignment(np.ones([2, 3]), np.ones([3, 3])),
        lambda: alignment(np.ones([2, 3]), np.ones([2, 3]), alpha=0),
        lambda: uniformity(np.ones([1, 3])),
        lambda: uniformity(np.ones([2, 3]), t=0),
        lambda: effective_rank(np.zeros([2, 3])),
        lambda: effective_rank(np.ones(3)),
        lambda: effective_rank(np.ones([0, 3])),
    ],
)
def test_bad_arguments_are_refused(call):
    with pytest.raises(ValueError, match=r"Received: "):
        call()
