import numpy as np
import pytest
from sklearn.metrics import top_k_accuracy_score

from tfcontrast.evaluate import top_k_accuracy


@pytest.mark.parametrize("k", [1, 2, 5])
def test_equals_scikit_learn_without_ties(k):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(200, 7)), rng.integers(0, 7, 200)
    expected = top_k_accuracy_score(labels, scores, k=k, labels=np.arange(7))
    assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)


def test_the_lower_class_wins_a_tie():
    scores = np.zeros([3, 3])
    assert top_k_accuracy(scores, np.array([0, 1, 2]), 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(scores, np.array([0, 1, 2]), 2) == pytest.approx(2 / 3)


def test_nan_is_never_a_hit_and_displaces_nothing():
    scores = np.array([[np.nan, 1.0, 2.0]] * 3)
    labels = np.array([0, 1, 2])
    assert top_k_accuracy(scores, labels, 2) == pytest.approx(2 / 3)
    assert top_k_accuracy(scores, labels, 3) == pytest.approx(2 / 3)


def test_an_unknown_label_is_a_miss():
    assert top_k_accuracy(np.zeros([2, 3]), np.array([-1, 3]), 3) == 0


@pytest.mark.parametrize(
    ("scores", "labels", "k"),
    [
        (np.zeros([2, 3]), np.zeros(2, int), 0),
        (np.zeros([2, 3]), np.zeros(3, int), 1),
        (np.zeros([3]), np.zeros(3, int), 1),
        (np.zeros([0, 3]), np.zeros(0, int), 1),
    ],
)
def test_bad_arguments_are_refused(scores, labels, k):
    with pytest.raises(ValueError, match=r"Received: "):
        top_k_accuracy(scores, labels, k)
