import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.optim import LARS, LARS_VARIANTS, variable_roles

RATES = [0.3, 0.2, 0.05, 0.4]


def norm(x):
    return float(np.sqrt(np.sum(np.square(x))))


def restated(
    variant, weight, gradients, *, decay, momentum, nesterov, classic, trust, adapted=True
):
    """The four rules, one after the other, in float64."""
    w = np.array(weight, np.float64)
    v = np.zeros_like(w)
    for lr, g in zip(RATES, gradients, strict=True):
        g = np.array(g, np.float64)
        if variant in ("larc", "solo"):
            if not adapted:
                g = g + decay * w
            elif norm(w) > 0 and norm(g) > 0:
                ratio = trust * norm(w) / (norm(g) + decay * norm(w) + 1e-8)
                if variant == "solo":
                    ratio = min(ratio / lr, 1.0)
                g = ratio * (g + decay * w)
            v = momentum * v + g
            w = w - lr * (g + momentum * v if nesterov else v)
            continue
        g = g + decay * w

        def ratio_of(direction, w=w):
            positive = adapted and norm(w) > 0 and norm(direction) > 0
            return trust * norm(w) / norm(direction) if positive else 1.0

        if variant == "byol":
            g = ratio_of(g) * g
            v = momentum * v + g
            w = w - lr * (g + momentum * v if nesterov else v)
        elif classic:
            scaled = lr * ratio_of(g) * g
            v = momentum * v + scaled
            w = w - (momentum * v + scaled if nesterov else v)
        else:
            v = momentum * v + g
            direction = g + momentum * v if nesterov else v
            w = w - lr * ratio_of(direction) * direction
    return w


@keras.saving.register_keras_serializable(package="tests")
class Listed(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return tf.gather(tf.constant(RATES), step)

    def get_config(self):
        return {}


def run(optimizer, weight, gradients):
    variable = keras.Variable(np.array(weight, np.float32), name="w")
    optimizer.build([variable])
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, tf.float32)])
    return variable.numpy()


def draws(shape=(3, 4)):
    rng = np.random.default_rng(1)
    return rng.normal(size=shape), rng.normal(size=(len(RATES), *shape))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("variant", "classic"),
    [("simclr", True), ("simclr", False)] + [(v, True) for v in LARS_VARIANTS[1:]],
)
def test_variants_equal_their_float64_restatement(variant, classic, decay, nesterov):
    weight, gradients = draws()
    optimizer = LARS(
        Listed(),
        variant=variant,
        weight_decay=decay,
        momentum=0.8,
        nesterov=nesterov,
        classic_momentum=classic,
        trust_coefficient=0.05,
    )
    expected = restated(
        variant,
        weight,
        gradients,
        decay=decay,
        momentum=0.8,
        nesterov=nesterov,
        classic=classic,
        trust=0.05,
    )
    np.testing.assert_allclose(run(optimizer, weight, gradients), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
@pytest.mark.parametrize("variant", LARS_VARIANTS)
def test_a_zero_norm_makes_the_ratio_one(variant, zero):
    weight, gradients = draws()
    if zero == "weight":
        weight = np.zeros_like(weight)
    else:
        gradients = np.zeros_like(gradients)
    optimizer = LARS(Listed(), variant=variant, weight_decay=0.0)
    expected = restated(
        variant, weight, gradients, decay=0.0, momentum=0.9, nesterov=False, classic=True,
        trust=optimizer.trust_coefficient,
    )  # fmt: skip
    result = run(optimizer, weight, gradients)
    np.testing.assert_allclose(result, expected, rtol=2e-5, atol=1e-6)
    if zero == "weight":  # unscaled first step, so the weights leave zero at once
        assert norm(result) > 0.1
    else:
        np.testing.assert_array_equal(result, weight.astype(np.float32))


@pytest.mark.parametrize("variant", ["larc", "solo"])
def test_larc_without_gradient_does_not_decay(variant):
    weight, gradients = draws()
    optimizer = LARS(0.1, variant=variant, weight_decay=0.5)
    result = run(optimizer, weight, np.zeros_like(gradients))
    np.testing.assert_array_equal(result, weight.astype(np.float32))


@pytest.mark.parametrize("variant", LARS_VARIANTS)
def test_the_step_does_not_depend_on_the_gradients_scale(variant):
    weight, gradients = draws()
    options = {"variant": variant, "weight_decay": 0.0, "trust_coefficient": 0.01}
    once = run(LARS(0.1, **options), weight, gradients)
    tenfold = run(LARS(0.1, **options), weight, 10 * gradients)
    np.testing.assert_allclose(once, tenfold, rtol=1e-5)
    assert norm(once - weight) > 1e-3


def test_solo_never_enlarges_a_gradient_and_survives_a_rate_of_zero():
    weight, gradients = draws()
    tiny = LARS(1e-4, variant="solo", momentum=0.0)  # trust |w| / |g| > lr, so the ratio is 1
    np.testing.assert_allclose(
        run(tiny, weight, gradients), weight - 1e-4 * gradients.sum(0), rtol=1e-6
    )
    zero = LARS(0.0, variant="solo")
    np.testing.assert_array_equal(run(zero, weight, gradients), weight.astype(np.float32))
    # the velocity took the unscaled gradient, as min(inf, 1) gives
    expected = sum(0.9 ** (3 - i) * g for i, g in enumerate(gradients))
    np.testing.assert_allclose(zero._velocities[0].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("variant", LARS_VARIANTS)
def test_vectors_are_left_alone_except_by_larc(variant):
    weight, gradients = draws(shape=(5,))
    adapted = variant == "larc"
    expected = restated(
        variant, weight, gradients, decay=0.1 if adapted else 0.0, momentum=0.9, nesterov=False,
        classic=True, trust=0.001, adapted=adapted,
    )  # fmt: skip
    optimizer = LARS(Listed(), variant=variant, weight_decay=0.1)
    np.testing.assert_allclose(run(optimizer, weight, gradients), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("variant", LARS_VARIANTS)
def test_decay_and_adaptation_are_excluded_separately(variant):
    model = keras.Sequential([keras.layers.Dense(3, name="fc")], name="m")
    model.build((None, 4))
    weight, bias = (v.numpy() for v in model.trainable_variables)
    optimizer = LARS(
        Listed(), variant=variant, weight_decay=0.1, exclude_from_decay=("bias",),
        exclude_from_adaptation=("kernel",), trust_coefficient=0.05,
    )  # fmt: skip
    optimizer.set_roles(variable_roles(model))
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(2)
    gradients = [(rng.normal(size=(4, 3)), rng.normal(size=3)) for _ in RATES]
    for kernel_gradient, bias_gradient in gradients:
        optimizer.apply([tf.constant(g, tf.float32) for g in (kernel_gradient, bias_gradient)])
    common = {"momentum": 0.9, "nesterov": False, "classic": True, "trust": 0.05}
    for index, (start, decay, adapted) in enumerate([(weight, 0.1, False), (bias, 0.0, True)]):
        expected = restated(
            variant, start, [g[index] for g in gradients], decay=decay, adapted=adapted, **common
        )
        result = model.trainable_variables[index].numpy()
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "lars"}, "variant must be one of simclr, byol, larc, solo"),
        ({"variant": "byol", "classic_momentum": False}, "option of the variant simclr"),
        ({"trust_coefficient": 0.0}, "trust_coefficient must be positive. Received: 0.0"),
        ({"exclude_from_decay": "bias"}, "sequence of roles. Received: 'bias'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LARS(0.1, **options)
