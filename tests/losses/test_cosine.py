import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import cosine_regression

FORMS = ["squared_distance", "negative_cosine"]
GOLDEN = {"squared_distance": 0.8283727228, "negative_cosine": -0.5858136386}


def loop(p, z, form):
    values = []
    for a, b in zip(p, z, strict=True):
        a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
        values.append(np.sum((a - b) ** 2) if form == "squared_distance" else -(a @ b))
    return np.mean(values)


@pytest.mark.parametrize("form", FORMS)
def test_golden_values(golden_views, form):
    p, z, _ = golden_views
    assert float(cosine_regression(p, z, form=form)) == pytest.approx(GOLDEN[form], abs=1e-9)
    single = cosine_regression(p.astype(np.float32), z.astype(np.float32), form=form)
    assert single.dtype == tf.float32
    assert float(single) == pytest.approx(GOLDEN[form], abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("b", [1, 5])
def test_equals_the_loop(random_views, form, b):
    p, z = random_views(b, 7)
    assert float(cosine_regression(p, z, form=form)) == pytest.approx(loop(p, z, form), abs=1e-12)


@pytest.mark.parametrize(("form", "low", "high"), [(FORMS[0], 0, 4), (FORMS[1], -1, 1)])
def test_range_and_scale(random_views, form, low, high):
    p, z = random_views(5, 7)
    assert float(cosine_regression(p, 3 * p, form=form)) == pytest.approx(low, abs=1e-12)
    assert float(cosine_regression(p, -p, form=form)) == pytest.approx(high, abs=1e-12)
    value = float(cosine_regression(p, z, form=form))
    assert low < value < high
    assert float(cosine_regression(10 * p, z, form=form)) == pytest.approx(value, abs=1e-12)


def test_independent_directions():
    p, z = np.random.default_rng(0).normal(size=(2, 2000, 64))
    both = sum(float(cosine_regression(*x, form="squared_distance")) for x in ((p, z), (z, p)))
    assert both == pytest.approx(4, abs=0.03)


@pytest.mark.parametrize("form", FORMS)
def test_only_the_prediction_learns(random_views, check_gradient, form):
    p, z = (tf.constant(x) for x in random_views(4, 5))
    with tf.GradientTape() as tape:
        tape.watch([p, z])
        value = cosine_regression(p, z, form=form)
    gradients = tape.gradient(value, [p, z])
    assert np.abs(gradients[0]).max() > 1e-3
    assert gradients[1] is None
    check_gradient(lambda x: cosine_regression(x, z, form=form), p.numpy())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ["one image", "zeros", "one zero", "equal", "huge"])
def test_finite_at_the_edges(random_views, assert_finite, case, form):
    p, z = random_views(1 if case == "one image" else 4, 6)
    if case == "zeros":
        p, z = p * 0, z * 0
    if case == "one zero":
        p[1] = 0
    if case == "equal":
        z = p
    if case == "huge":
        p = p * 1e15
    targets = z.astype(np.float32)
    value, (gradient,) = assert_finite(lambda x: cosine_regression(x, targets, form=form), p)
    if case == "zeros":
        assert value == (2 if form == "squared_distance" else 0)
    if case == "one zero":
        assert (gradient[1] == 0).all()


def test_half_precision_and_shards(random_views):
    p, z = (x.astype(np.float32) for x in random_views(8, 6))
    value = float(cosine_regression(p, z, form="squared_distance"))
    half = cosine_regression(p.astype(np.float16), z.astype(np.float16), form="squared_distance")
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(value, abs=1e-2)
    halves = [cosine_regression(p[r], z[r], form=FORMS[0]) for r in (slice(4), slice(4, 8))]
    assert np.mean([float(h) for h in halves]) == pytest.approx(value, abs=1e-6)


def test_bad_arguments_are_refused():
    p = tf.ones([2, 3])
    with pytest.raises(ValueError, match=r"form must be one of .*Received: 'byol'"):
        cosine_regression(p, p, form="byol")
    with pytest.raises(ValueError, match="Received: "):
        cosine_regression(p, tf.ones([3, 3]), form="negative_cosine")
