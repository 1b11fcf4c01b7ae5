import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import supcon

MIXED_LABELS = [0, 1, 0, 2, 1, 0]


def batch(b, v, d, seed=0):
    rng = np.random.default_rng(seed)
    return 2 * (rng.normal(size=(b, 1, d)) + rng.normal(size=(b, v, d)))


@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("denominator", ["all", "one_positive", "only_negatives"])
def test_gradient_is_that_of_finite_differences(check_gradient, variant, denominator):
    y = np.array(MIXED_LABELS)
    check_gradient(
        lambda z: supcon(z, y, temperature=0.3, variant=variant, denominator=denominator),
        batch(6, 2, 4),
    )


@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("denominator", ["all", "one_positive", "only_negatives"])
def test_compiled_and_half_precision_agree(variant, denominator):
    z, y = tf.constant(batch(6, 2, 16), tf.float32), tf.constant(MIXED_LABELS)
    options = {"temperature": 0.5, "variant": variant, "denominator": denominator}
    value = float(supcon(z, y, positives_cap=2, **options))
    compiled = tf.function(
        lambda rows, labels: supcon(rows, labels, positives_cap=2, **options), jit_compile=True
    )
    assert float(compiled(z, y)) == pytest.approx(value, rel=1e-5)
    half = supcon(tf.cast(z, tf.bfloat16), y, positives_cap=2, **options)
    assert half.dtype == tf.float32
    assert float(half) == pytest.approx(value, abs=2e-2)


@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("denominator", ["all", "one_positive", "only_negatives"])
@pytest.mark.parametrize(
    "case", ["one view of one image", "one image", "no positives", "no negatives", "zeros", "equal"]
)
def test_finite_at_the_edges(assert_finite, variant, denominator, case):
    b, v = {"one view of one image": (1, 1), "one image": (1, 2), "no positives": (4, 1)}.get(
        case, (4, 2)
    )
    z, y = batch(b, v, 5), np.arange(b) % 2
    if case == "no positives":
        y = np.arange(b)
    if case == "no negatives":
        y = np.zeros(b, int)
    if case in ("zeros", "equal"):
        z = z * 0 + (case == "equal")
    for temperature in (1e-3, 0.1):

        def loss(rows, t=temperature):
            return supcon(rows, y, temperature=t, variant=variant, denominator=denominator)

        jit = temperature < 0.01 and variant == "in" and case == "no negatives"
        value, (gradient,) = assert_finite(loss, z, jit=jit)
        if case in ("one view of one image", "no positives"):
            assert value == pytest.approx(0, abs=1e-6)
            assert not gradient.any()
        if case == "no negatives" and denominator != "all":
            assert value == pytest.approx(0, abs=1e-6)


def test_a_small_temperature_still_sees_the_negatives():
    z = np.eye(8, dtype=np.float32).reshape(4, 2, 8)
    value = float(supcon(z, np.arange(4), temperature=1e-3))
    assert value == pytest.approx(np.log(7), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature must be above 0"),
        ({"variant": "middle"}, "variant must be one of out, in"),
        ({"denominator": "some"}, "denominator must be one of"),
        ({"anchors": "last"}, "anchors must be one of"),
        ({"scale": "double"}, "scale must be one of"),
        ({"positives_cap": -1}, "positives_cap must not be negative"),
        ({"labels": np.zeros(4, np.float32)}, "labels must be integers"),
        ({"labels": np.zeros(3, np.int32)}, "labels and the batch axis"),
        ({"labels": np.zeros([4, 1], np.int32)}, "labels and the batch axis"),
        ({"embeddings": np.ones([4, 3], np.float32)}, "embeddings must have 3"),
        ({"first_row": 4}, "first_row needs candidates"),
        (
            {"candidates": (np.ones([8, 3, 3], np.float32), np.zeros(8, np.int32))},
            "candidates must be rows like the local ones",
        ),
        (
            {"candidates": (np.ones([8, 2, 3], np.float32), np.zeros(4, np.int32))},
            "candidates' labels and the batch axis",
        ),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    arguments = {
        "embeddings": np.ones([4, 2, 3], np.float32),
        "labels": np.zeros(4, np.int32),
        **changes,
    }
    embeddings, labels = arguments.pop("embeddings"), arguments.pop("labels")
    with pytest.raises(ValueError, match=message + r".*Received: "):
        supcon(embeddings, labels, **arguments)
