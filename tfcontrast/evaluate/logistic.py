"""Linear evaluation offline: multinomial logistic regression on frozen features, solved by L-BFGS.

The protocol of Kornblith, Shlens, Le: Do Better ImageNet Models Transfer Better? (2019),
arXiv:1805.08974, which SimCLR (appendix B.8.1) and BYOL (appendix D.2) use: features once without
augmentation, 45 regularisation strengths, the best one on held-out training data, a last fit on
all of it, the test set once.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from tfcontrast.evaluate.top_k import top_k_accuracy

DEFAULT_L2 = tuple(float(value) for value in np.logspace(-6, 5, 45))
SEARCHES = ("grid", "two_level")


def logistic_probe(
    train_features: npt.NDArray[Any],
    train_labels: npt.NDArray[Any],
    test_features: npt.NDArray[Any],
    test_labels: npt.NDArray[Any],
    *,
    num_classes: int,
    search: str = "grid",
    l2_values: Sequence[float] = DEFAULT_L2,
    validation_fraction: float = 0.1,
    seed: int = 0,
    max_iterations: int = 1000,
    tolerance: float = 1e-4,
) -> dict[str, Any]:
    """Trains a linear softmax classifier on features and tests it.

    Minimises, with the bias not penalised and features as they are (neither normalised nor
    standardised),

        sum_i CE( softmax(W x_i + b), y_i ) + lambda / 2 ||W||^2

    lambda is the value with the best accuracy on a share of the training examples that the fit did
    not see (at equal accuracy the larger one); the classifier is then fitted again on all training
    examples.

    ``search="grid"`` tries every one of ``l2_values`` from large to small, each fit starting at
    the last one's solution. ``search="two_level"`` is cheaper, 15 fits instead of 45: seven values
    from 1e-6 to 1e6, two decades apart, then four times both neighbours of the best, at 1, 1/2,
    1/4 and 1/8 decade. The result names the search that was used.

    Args:
        train_features: [N, D].
        train_labels: int [N], 0..C-1.
        test_features: [M, D].
        test_labels: int [M], 0..C-1.
        num_classes: C, at least 2.
        search: ``grid`` or ``two_level``.
        l2_values: the lambdas of ``grid``; a single one is used without validation.
        validation_fraction: share of the training examples that chooses lambda, spread evenly over
            the classes.
        seed: of the draw of that share.
        max_iterations: of L-BFGS, for each fit.
        tolerance: L-BFGS stops when the largest gradient entry of the mean objective is below it.

    Returns:
        ``linear_top1`` and ``linear_top5`` in [0, 1] on the test examples; ``l2`` (the chosen
        lambda), ``validation_top1`` (None with a single lambda), ``train_examples``,
        ``validation_examples``, ``test_examples``; ``search``, ``fits``;
        ``not_converged`` (the lambdas whose fit stopped before the tolerance, in the search and the
        last one) and ``converged`` (of the last fit); ``protocol``, all of this in words.

    Raises:
        ValueError: an unknown search, no or negative lambdas, an empty validation share, fewer
            than two classes among the examples that a fit sees, or arrays that do not fit together.

    Example:
        >>> x = np.array([[-2.0], [-1.0], [1.0], [2.0]])
        >>> y = np.array([0, 0, 1, 1])
        >>> logistic_probe(x, y, x, y, num_classes=2, l2_values=[0.1])["linear_top1"]
        1.0

    Differs from the reference code: google-research/linear_eval has lambda ||W||^2 without the
    half. scikit-learn fits one sigmoid when there are two classes; its strength is halved here so
    that the objective stays the softmax's.
    """
    train = _checked(train_features, train_labels, num_classes, "train")
    test = _checked(test_features, test_labels, num_classes, "test")
    if search not in SEARCHES:
        raise ValueError(f"search must be one of {', '.join(SEARCHES)}. Received: {search!r}")
    if not len(l2_values) or not min(l2_values) > 0:
        raise ValueError(f"l2_values must be above 0 and not empty. Received: {l2_values}")

    fitter = _Fitter(num_classes, max_iterations, tolerance)
    if search == "grid" and len(l2_values) == 1:
        best, best_accuracy, held_out = float(l2_values[0]), None, 0
    else:
        fit_rows, check_rows = validation_share(train[1], validation_fraction, seed=seed)
        held_out = len(check_rows)
        accuracies: dict[float, float] = {}
        for l2 in _grid(l2_values) if search == "grid" else _two_level(accuracies):
            fitter.fit(train[0][fit_rows], train[1][fit_rows], l2)
            scores = fitter.scores(train[0][check_rows])
            accuracies[l2] = top_k_accuracy(scores, train[1][check_rows])
        best = _best(accuracies)
        best_accuracy = accuracies[best]
    converged = fitter.fit(*train, best)
    scores = fitter.scores(test[0])
    return {
        "linear_top1": top_k_accuracy(scores, test[1], 1),
        "linear_top5": top_k_accuracy(scores, test[1], 5),
        "l2": best,
        "validation_top1": best_accuracy,
        "train_examples": len(train[1]),
        "validation_examples": held_out,
        "test_examples": len(test[1]),
        "search": search,
        "fits": fitter.fits,
        "not_converged": fitter.not_converged,
        "converged": converged,
        "protocol": _protocol(search, l2_values, held_out, seed),
    }


def validation_share(
    labels: npt.NDArray[Any], fraction: float, *, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Splits the rows into those to fit and those to choose with, evenly over the classes.

    The rows are shuffled, sorted by class and every (1 / fraction)-th one is held out.

    Args:
        labels: int [N].
        fraction: share to hold out, between 0 and 1.
        seed: of the shuffling.

    Returns:
        Rows to fit and floor(N fraction) rows to choose with, both ascending.

    Raises:
        ValueError: a share outside (0, 1), or one that holds out no row.
    """
    count = int(len(labels) * fraction + 1e-9)
    if not 0 < fraction < 1 or count == 0:
        raise ValueError(
            "validation_fraction must be between 0 and 1 and hold out at least one example."
            f" Received: {fraction} of {len(labels)} examples"
        )
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    steps = np.arange(len(labels) + 1) * count // len(labels)
    held_out = np.diff(steps) > 0
    return np.sort(by_class[~held_out]), np.sort(by_class[held_out])


class _Fitter:
    """scikit-learn's logistic regression, warm from fit to fit, with its convergence on record."""

    def __init__(self, num_classes: int, max_iterations: int, tolerance: float) -> None:
        self.fits = 0
        self.not_converged: list[float] = []
        self._num_classes = num_classes
        self._model = LogisticRegression(
            solver="lbfgs", max_iter=max_iterations, tol=tolerance, warm_start=True
        )

    def fit(self, features: npt.NDArray[Any], labels: npt.NDArray[Any], l2: float) -> bool:
        classes = np.unique(labels)
        if len(classes) < 2:
            raise ValueError(f"a fit needs at least two classes. Received: {classes.tolist()}")
        if not np.array_equal(getattr(self._model, "classes_", classes), classes):
            del self._model.coef_  # the last solution has other rows; start at zero
        # one logit difference w = u - (-u) costs lambda |w|^2 / 4 in the softmax's objective
        self._model.set_params(C=(2.0 if len(classes) == 2 else 1.0) / l2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self._model.fit(features, labels)
        self.fits += 1
        converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
        if not converged:
            self.not_converged.append(l2)
        for other in caught:
            if not issubclass(other.category, ConvergenceWarning):
                warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        return converged

    def scores(self, features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Logits [N, C]; NaN for a class that the fit did not see."""
        logits = self._model.decision_function(features)
        if logits.ndim == 1:
            logits = np.stack([-logits / 2, logits / 2], axis=1)
        scores = np.full([len(features), self._num_classes], np.nan)
        scores[:, self._model.classes_] = logits
        return scores


def _grid(l2_values: Sequence[float]) -> Iterator[float]:
    yield from sorted({float(value) for value in l2_values}, reverse=True)


def _two_level(accuracies: dict[float, float]) -> Iterator[float]:
    """Yields lambdas; reads the accuracies that the caller has stored for the earlier ones."""
    for exponent in range(6, -7, -2):
        yield 10.0**exponent
    for step in (1.0, 0.5, 0.25, 0.125):
        center = np.log10(_best(accuracies))
        yield float(10.0 ** (center + step))
        yield float(10.0 ** (center - step))


def _best(accuracies: dict[float, float]) -> float:
    return max(accuracies, key=lambda l2: (accuracies[l2], l2))


def _protocol(search: str, l2_values: Sequence[float], held_out: int, seed: int) -> str:
    objective = "L-BFGS logistic regression, sum of cross entropies + l2/2 |W|^2, raw features"
    if not held_out:
        return f"{objective}; l2 {float(l2_values[0]):g} given"
    tried = (
        f"{len(set(l2_values))} values {min(l2_values):g}..{max(l2_values):g}"
        if search == "grid"
        else "a two-level search, 7 values 1e-06..1e+06 and 4 halvings"
    )
    return (
        f"{objective}; l2 chosen from {tried} on {held_out} held-out training examples"
        f" (seed {seed}), then refitted on all training examples; test set used once"
    )


def _checked(
    features: npt.NDArray[Any], labels: npt.NDArray[Any], num_classes: int, name: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    features, labels = np.asarray(features, np.float64), np.asarray(labels, np.int64)
    if features.ndim != 2 or labels.shape != features.shape[:1] or features.size == 0:
        raise ValueError(
            f"{name}_features must be [N, D] and {name}_labels [N], not empty."
            f" Received: shapes {features.shape} and {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"{name}_labels must be 0..{num_classes - 1}. Received: {labels.min()}..{labels.max()}"
        )
    return features, labels
