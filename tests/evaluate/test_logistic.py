import warnings

import numpy as np
import pytest
from scipy.optimize import minimize

from tfcontrast.evaluate import logistic_probe
from tfcontrast.evaluate.logistic import DEFAULT_L2, _Fitter, validation_share


def problem(n, classes, d=3, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(9).normal(size=(classes, d))
    labels = np.arange(n) % classes
    return centers[labels] + noise * rng.normal(size=(n, d)), labels


def softmax_objective(flat, x, y, classes, l2):
    w = flat.reshape(classes, -1)
    logits = x @ w[:, :-1].T + w[:, -1]
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(y)), y].sum() + l2 / 2 * np.sum(w[:, :-1] ** 2)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("l2", [0.05, 1.0, 30.0])
def test_the_solution_is_scipys_minimum_of_the_stated_objective(classes, l2):
    x, y = problem(40, classes)
    fitter = _Fitter(classes, 2000, 1e-8)
    assert fitter.fit(x, y, l2)
    start = np.zeros(classes * (x.shape[1] + 1))
    best = minimize(
        softmax_objective, start, args=(x, y, classes, l2), tol=1e-12, options={"maxiter": 5000}
    )
    w = best.x.reshape(classes, -1)
    expected = x @ w[:, :-1].T + w[:, -1]
    ours = fitter.scores(x)
    np.testing.assert_allclose(
        ours - ours.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=2e-3
    )


@pytest.mark.parametrize("search", ["grid", "two_level"])
@pytest.mark.parametrize("classes", [2, 7])
def test_learns_and_reports(search, classes):
    x, y = problem(210, classes, d=8, noise=0.4)
    test_x, test_y = problem(140, classes, d=8, seed=1, noise=0.4)
    l2_values = np.logspace(-3, 3, 5)
    result = logistic_probe(
        x, y, test_x, test_y, num_classes=classes, search=search, l2_values=l2_values
    )
    assert result["linear_top1"] > 0.9
    assert result["linear_top5"] >= result["linear_top1"]
    assert 0 < result["validation_top1"] <= 1
    assert result["fits"] == {"grid": 5, "two_level": 15}[search] + 1
    assert (result["train_examples"], result["validation_examples"]) == (210, 21)
    assert result["test_examples"] == 140
    assert result["search"] == search
    words = {"grid": "5 values 0.001..1000", "two_level": "a two-level search"}[search]
    assert words in result["protocol"]
    assert "21 held-out training examples (seed 0)" in result["protocol"]


def test_the_chosen_strength_is_the_best_on_the_held_out_share():
    x, y = problem(60, 3, noise=1.5)
    l2_values = [1e-3, 1.0, 30.0, 1e4]
    result = logistic_probe(x, y, x, y, num_classes=3, l2_values=l2_values, validation_fraction=0.3)
    fit, check = validation_share(y, 0.3, seed=0)
    accuracy = {}
    for l2 in l2_values:
        alone = logistic_probe(x[fit], y[fit], x[check], y[check], num_classes=3, l2_values=[l2])
        accuracy[l2] = alone["linear_top1"]
    best = max(accuracy.values())
    assert result["validation_top1"] == pytest.approx(best)
    assert result["l2"] == max(l2 for l2 in l2_values if accuracy[l2] == best)


def test_the_last_fit_uses_all_training_examples():
    x, y = problem(60, 3)
    searched = logistic_probe(x, y, x, y, num_classes=3, l2_values=[5.0, 5.0, 5.0])
    given = logistic_probe(x, y, x, y, num_classes=3, l2_values=[5.0])
    assert searched["linear_top1"] == given["linear_top1"]
    assert given["validation_top1"] is None
    assert given["fits"] == 1
    assert "l2 5 given" in given["protocol"]


def test_default_strengths_are_the_papers():
    assert len(DEFAULT_L2) == 45
    assert DEFAULT_L2[0] == pytest.approx(1e-6)
    assert DEFAULT_L2[-1] == pytest.approx(1e5)


def test_an_unconverged_fit_is_on_record_and_not_a_warning():
    x, y = problem(60, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = logistic_probe(
            x, y, x, y, num_classes=3, l2_values=[1e-4, 1e6], max_iterations=1, seed=1
        )
        fine = logistic_probe(x, y, x, y, num_classes=3, l2_values=[10.0])
    assert 1e-4 in result["not_converged"]
    assert fine["not_converged"] == []
    assert fine["converged"] is True
    assert result["converged"] is (result["not_converged"].count(result["l2"]) < 2)


def test_a_class_that_the_fit_never_saw_is_never_a_guess():
    x, y = problem(30, 2)
    result = logistic_probe(x, y, x[:2], np.array([2, 3]), num_classes=4, l2_values=[1.0])
    assert result["linear_top1"] == result["linear_top5"] == 0


def test_a_class_with_one_example_may_be_held_out():
    x, y = problem(40, 2)
    y = y.copy()
    y[3] = 2
    for seed in range(6):
        result = logistic_probe(
            x, y, x, y, num_classes=3, l2_values=[0.1, 1.0], validation_fraction=0.4, seed=seed
        )
        assert 0 <= result["linear_top1"] <= 1
        assert result["fits"] == 3


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_the_held_out_share_is_even_over_classes_and_seeded(fraction):
    labels = np.repeat(np.arange(5), 40)
    fit, check = validation_share(labels, fraction, seed=3)
    assert sorted([*fit, *check]) == list(range(200))
    assert len(check) == 200 * fraction
    np.testing.assert_array_equal(np.bincount(labels[check]), [40 * fraction] * 5)
    np.testing.assert_array_equal(validation_share(labels, fraction, seed=3)[1], check)
    assert set(validation_share(labels, fraction, seed=4)[1]) != set(check)


@pytest.mark.parametrize(
    "changes",
    [
        {"search": "random"},
        {"l2_values": []},
        {"l2_values": [0.0, 1.0]},
        {"validation_fraction": 0.0},
        {"validation_fraction": 1.0},
        {"validation_fraction": 0.01},
        {"train_labels": np.zeros(30, int)},
        {"train_labels": np.full(30, 3)},
        {"train_labels": np.full(30, -1)},
        {"train_labels": np.zeros(29, int)},
        {"test_features": np.zeros([0, 3])},
    ],
)
def test_bad_arguments_are_refused(changes):
    x, y = problem(30, 3)
    arguments = {
        "train_features": x,
        "train_labels": y,
        "test_features": x,
        "test_labels": y,
        "l2_values": [0.1, 1.0],
        **changes,
    }
    with pytest.raises(ValueError, match=r"Received: "):
        logistic_probe(num_classes=3, **arguments)
