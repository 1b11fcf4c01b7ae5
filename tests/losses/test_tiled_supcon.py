import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import supcon
from tfcontrast.losses.tiled_supcon import class_numbers

LABELS = np.array([0, 3, 0, -1, 3, 3, 8, -1, 0])


def loop_supcon(z, labels, *, t, variant, denominator, anchors):
    """Equations 2 and 3 of arXiv:2004.11362, anchor by anchor."""
    b, views, _ = z.shape
    z = z / np.linalg.norm(z, axis=2, keepdims=True)
    places = list(itertools.product(range(b), range(views)))
    losses = []
    for i, v in places:
        if anchors == "first" and v:
            continue
        others = [p for p in places if p != (i, v)]
        same = [p for p in others if p[0] == i or labels[p[0]] == labels[i] != -1]
        rest = [p for p in others if p not in same]
        e = {p: np.exp(z[i, v] @ z[p] / t) for p in others}
        below = sum(e[p] for p in (others if denominator == "all" else rest))
        if not same or not below:
            losses.append(0)
        elif variant == "out":
            losses.append(-np.mean([np.log(e[p] / below) for p in same]))
        else:
            losses.append(-np.log(np.mean([e[p] / below for p in same])))
    return np.mean(losses)


@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("denominator", ["all", "only_negatives"])
@pytest.mark.parametrize("anchors", ["all", "first"])
@pytest.mark.parametrize("views", [1, 2])
def test_equals_the_papers_formula(small_tiles, variant, denominator, anchors, views):
    z = np.random.default_rng(0).normal(size=(9, views, 4))
    options = {"variant": variant, "denominator": denominator, "anchors": anchors}
    expected = loop_supcon(z, LABELS, t=0.3, **options)
    assert float(supcon(z, LABELS, temperature=0.3, **options)) == pytest.approx(
        expected, abs=1e-10
    )


# Every pair of options, not every three: each is compiled by XLA.
@pytest.mark.parametrize(
    ("variant", "denominator", "temperature"),
    [
        ("out", "all", 0.01),
        ("out", "only_negatives", 0.1),
        ("out", "one_positive", 0.01),
        ("in", "all", 0.1),
        ("in", "only_negatives", 0.01),
        ("in", "one_positive", 0.1),
    ],
)
def test_value_and_gradient_are_those_of_the_dense_form(
    small_tiles, value_and_gradients, monkeypatch, variant, denominator, temperature
):
    z = np.random.default_rng(1).normal(size=(9, 2, 4))

    def loss(z):
        return supcon(z, LABELS, temperature=temperature, variant=variant, denominator=denominator)

    tiled = value_and_gradients(loss, z)
    single = value_and_gradients(loss, z, dtype="float32", compiled="xla")
    monkeypatch.undo()
    dense = value_and_gradients(loss, z)
    for one, half, other in zip(tiled, single, dense, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)
        np.testing.assert_allclose(half, other, atol=1e-5 / temperature)


@pytest.mark.parametrize("variant", ["out", "in"])
def test_shards_average_to_the_whole(small_tiles, value_and_gradients, variant):
    z = np.random.default_rng(2).normal(size=(9, 2, 4))

    def sharded(z):
        return (
            tf.add_n(
                [
                    supcon(
                        z[k : k + 3],
                        LABELS[k : k + 3],
                        variant=variant,
                        candidates=(z, LABELS),
                        first_row=tf.constant(k),
                    )
                    for k in (0, 3, 6)
                ]
            )
            / 3
        )

    whole = value_and_gradients(lambda z: supcon(z, LABELS, variant=variant), z)
    for one, many in zip(whole, value_and_gradients(sharded, z), strict=True):
        np.testing.assert_allclose(many, one, atol=1e-11)


@pytest.mark.parametrize("label", [-1, 4])
def test_one_class_or_no_class_at_all(small_tiles, value_and_gradients, monkeypatch, label):
    z, labels = np.random.default_rng(3).normal(size=(6, 2, 4)), np.full(6, label)
    for denominator in ("all", "only_negatives"):
        monkeypatch.undo()
        dense = value_and_gradients(lambda z, d=denominator: supcon(z, labels, denominator=d), z)
        small_tiles()
        tiled = value_and_gradients(lambda z, d=denominator: supcon(z, labels, denominator=d), z)
        for one, other in zip(tiled, dense, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_class_numbers(jit, dtype):
    labels = LABELS.astype(dtype)
    numbers = tf.function(lambda x: class_numbers(x, -1), jit_compile=jit)(labels).numpy()
    assert numbers.dtype == np.int32
    assert set(numbers) == set(range(5))
    for i, j in itertools.combinations(range(9), 2):
        assert (numbers[i] == numbers[j]) == (labels[i] == labels[j] != -1)
