import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from tfcontrast.evaluate import normalized_mutual_information


@pytest.mark.parametrize("clusters", [(2, 2), (5, 3), (40, 7)])
@pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
def test_equals_scikit_learns(clusters, noise):
    rng = np.random.default_rng(0)
    first = rng.integers(0, clusters[0], 500)
    other = rng.integers(0, clusters[1], 500)
    second = np.where(rng.random(500) < noise, other, first % clusters[1])
    found = normalized_mutual_information(first, second)
    assert found == pytest.approx(normalized_mutual_info_score(first, second), abs=1e-12)


def test_names_of_clusters_do_not_count():
    numbers = np.array([0, 0, 1, 2, 2, 2])
    renamed = np.array([-100, -100, 7, 3, 3, 3])
    assert normalized_mutual_information(numbers, renamed) == pytest.approx(1)
    assert normalized_mutual_information(numbers, numbers[::-1]) < 0.7


def test_edges():
    assert normalized_mutual_information(np.zeros(4, int), np.zeros(4, int)) == 1
    assert normalized_mutual_information(np.zeros(4, int), np.arange(4)) == 0
    assert normalized_mutual_information(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == 0


@pytest.mark.parametrize(("first", "second"), [([0, 1], [0]), ([[0]], [[0]]), ([], [])])
def test_bad_input(first, second):
    with pytest.raises(ValueError, match=r"Received: shapes"):
        normalized_mutual_information(np.array(first), np.array(second))
