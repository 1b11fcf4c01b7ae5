import numpy as np
import pytest

from tfcontrast.evaluate import knn, knn_accuracy, weighted_knn


def problem(n=60, q=17, d=6, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(classes, d))
    bank_labels, labels = rng.integers(0, classes, n), rng.integers(0, classes, q)
    bank = centers[bank_labels] + 0.9 * rng.normal(size=(n, d))
    queries = centers[labels] + 0.9 * rng.normal(size=(q, d))
    return bank, bank_labels, 5 * queries, labels


def loop_knn(bank, bank_labels, queries, classes, k, temperature):
    scores = np.zeros([len(queries), classes])
    for row, x in enumerate(queries):
        cosines = [x @ f / np.linalg.norm(x) / np.linalg.norm(f) for f in bank]
        for j in sorted(range(len(bank)), key=lambda j: -cosines[j])[:k]:
            scores[row, bank_labels[j]] += np.exp(cosines[j] / temperature)
    return scores


@pytest.mark.parametrize("k", [1, 5, 60, 200])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_the_loop_up_to_the_scale_of_a_row(k, temperature):
    bank, bank_labels, queries, _ = problem()
    ours = weighted_knn(bank, bank_labels, queries, num_classes=4, k=k, temperature=temperature)
    expected = loop_knn(bank, bank_labels, queries, 4, k, temperature)
    np.testing.assert_allclose(
        ours / ours.sum(1, keepdims=True), expected / expected.sum(1, keepdims=True), atol=1e-5
    )


def test_accuracy_equals_the_loops():
    bank, bank_labels, queries, labels = problem(q=200, classes=7)
    result = knn_accuracy(bank, bank_labels, queries, labels, num_classes=7, k=20)
    scores = loop_knn(bank, bank_labels, queries, 7, 20, 0.1)
    guesses = np.argsort(-scores, axis=1, kind="stable")
    has_votes = np.take_along_axis(scores, guesses, 1) > 0
    hits = (guesses == labels[:, None]) & has_votes
    assert result["knn_top1"] == pytest.approx(hits[:, :1].any(1).mean())
    assert result["knn_top5"] == pytest.approx(hits[:, :5].any(1).mean())
    assert 0.3 < result["knn_top1"] < result["knn_top5"]


def test_chunks_do_not_change_the_scores(monkeypatch):
    bank, bank_labels, queries, _ = problem()
    whole = weighted_knn(bank, bank_labels, queries, num_classes=4)
    for floats in (1, 200):
        monkeypatch.setattr(knn, "_CHUNK_FLOATS", floats)
        chunked = weighted_knn(bank, bank_labels, queries, num_classes=4)
        np.testing.assert_allclose(chunked, whole, rtol=1e-4)


def test_ties_go_to_the_earlier_neighbour_and_the_lowest_class():
    bank, query = np.array([[1.0, 0.0]] * 4), np.array([[1.0, 0.0]])
    labels = np.array([2, 1, 0, 0])
    scores = weighted_knn(bank, labels, query, num_classes=3, k=2)
    np.testing.assert_allclose(scores, [[0, 1, 1]])
    assert knn_accuracy(bank, labels, query, np.array([1]), num_classes=3, k=2)["knn_top1"] == 1
    assert knn_accuracy(bank, labels, query, np.array([2]), num_classes=3, k=2)["knn_top1"] == 0


def test_a_class_without_votes_is_no_guess():
    bank, query = np.eye(6), np.eye(6)[5:]
    one = knn_accuracy(bank, np.arange(6), query, np.array([0]), num_classes=6, k=1)
    assert one == {"knn_top1": 0.0, "knn_top5": 0.0}


def test_tiny_temperatures_and_zero_vectors_stay_finite():
    bank, bank_labels, queries, _ = problem()
    queries[0], bank[0] = 0, 0
    scores = weighted_knn(bank, bank_labels, queries, num_classes=4, temperature=1e-3)
    assert np.isfinite(scores).all()
    assert (scores.max(axis=1) >= 1).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"k": 0},
        {"temperature": 0.0},
        {"bank": np.zeros([0, 6])},
        {"bank": np.zeros([60, 5])},
        {"bank_labels": np.zeros(59, int)},
        {"bank_labels": np.full(60, 4)},
        {"bank_labels": np.full(60, -1)},
    ],
)
def test_bad_arguments_are_refused(changes):
    bank, bank_labels, queries, _ = problem()
    arguments = {"bank": bank, "bank_labels": bank_labels, "queries": queries, **changes}
    with pytest.raises(ValueError, match=r"Received: "):
        weighted_knn(num_classes=4, **arguments)
