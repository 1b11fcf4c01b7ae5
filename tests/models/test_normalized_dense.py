"""Weight-normed outputs and prototypes against NumPy; lengths, gradients, precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import Prototypes, WeightNormDense
from tfcontrast.optim import variable_roles

INPUTS = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")


def _weight_norm(**options):
    layer = WeightNormDense(9, name="last", **options)
    layer.build((None, 6))
    return layer


def _effective(layer):
    """The matrix that the layer multiplies by, through what it does to unit vectors."""
    return layer(np.eye(6, dtype="float32")).numpy()


def test_weight_norm_is_numpys():
    layer = _weight_norm(train_gain=True)
    layer.gain.assign(np.linspace(0.5, 2, 9)[None])
    v = np.asarray(layer.direction, "float64")
    expected = INPUTS @ (v / np.sqrt((v**2).sum(0)) * np.linspace(0.5, 2, 9))
    np.testing.assert_allclose(layer(INPUTS), expected, atol=1e-5)
    np.testing.assert_allclose((_effective(layer) ** 2).sum(0) ** 0.5, layer.gain[0], rtol=1e-5)


def test_logits_of_unit_inputs_lie_in_the_gains_range():
    layer = _weight_norm()
    # an input along an output's own direction reaches its gain
    v = np.asarray(layer.direction)
    logits = layer((v / np.linalg.norm(v, axis=0)).T).numpy()
    np.testing.assert_allclose(np.diag(logits), 1, rtol=1e-5)
    assert np.abs(logits).max() < 1 + 1e-5
    before = _effective(layer)
    layer.direction.assign(v * 7)
    np.testing.assert_allclose(_effective(layer), before, atol=1e-6)


@pytest.mark.parametrize("train_gain", [False, True])
def test_the_gain_is_trained_where_asked_and_decays_like_a_weight(train_gain):
    layer = _weight_norm(train_gain=train_gain)
    assert [v.name for v in layer.variables] == ["direction", "gain"] or not train_gain
    assert [v.name for v in layer.trainable_variables] == ["direction", "gain"][: 1 + train_gain]
    np.testing.assert_array_equal(layer.gain, np.ones((1, 9)))
    assert set(variable_roles(layer).values()) == {"kernel"}
    model = keras.Sequential([layer])
    assert set(variable_roles(model).values()) == {"kernel"}


def test_gradients_are_finite_differences_and_orthogonal_to_the_direction():
    layer = _weight_norm(train_gain=True, dtype="float64")
    x = INPUTS.astype("float64")
    weights = np.random.default_rng(1).normal(size=(5, 9))

    def loss():
        return tf.reduce_sum(layer(x) * weights)

    with tf.GradientTape() as tape:
        value = loss()
    for variable, gradient in zip(
        layer.variables, tape.gradient(value, [v.value for v in layer.variables]), strict=True
    ):
        start = variable.numpy()
        place = (0, 3)
        moved = start.copy()
        moved[place] += 1e-6
        variable.assign(moved)
        slope = (loss() - value) / 1e-6
        variable.assign(start)
        assert float(gradient[place]) == pytest.approx(float(slope), rel=1e-4)
        if variable.name == "direction":
            np.testing.assert_allclose((gradient.numpy() * start).sum(0), 0, atol=1e-10)


def test_prototypes_are_a_product_and_normalize_keeps_their_directions():
    layer = Prototypes(11, name="prototypes")
    layer.build((None, 6))
    before = np.asarray(layer.kernel, "float64")
    np.testing.assert_allclose(layer(INPUTS), INPUTS @ before, atol=1e-5)
    layer.normalize()
    np.testing.assert_allclose(layer.kernel, before / np.linalg.norm(before, axis=0), atol=1e-6)
    unit = INPUTS / np.linalg.norm(INPUTS, axis=1, keepdims=True)
    assert np.abs(layer(unit)).max() <= 1 + 1e-6
    once = layer.kernel.numpy()
    layer.normalize()
    np.testing.assert_allclose(layer.kernel, once, atol=1e-7)
    layer.kernel.assign(3 * once)
    layer.normalize(tf.constant(False))
    np.testing.assert_array_equal(layer.kernel, 3 * once)
    assert [v.name for v in layer.variables] == ["kernel"]


@pytest.mark.parametrize("replicas", [1, 2])
def test_normalize_works_within_a_replicas_step(strategy_of, replicas):
    strategy = strategy_of(replicas)
    with strategy.scope():
        layer = Prototypes(4, name="prototypes")
        layer.build((None, 6))

    @tf.function
    def run():
        def step():
            layer.normalize()
            return tf.convert_to_tensor(layer.kernel)

        return strategy.experimental_local_results(strategy.run(step))

    for kernel in run():
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=0), 1, atol=1e-6)


@pytest.mark.parametrize("cls", [WeightNormDense, Prototypes])
def test_start_precision_and_save(cls):
    layer = cls(400, name="layer", dtype="mixed_bfloat16")
    layer.build((None, 64))
    start = layer.variables[0].numpy()
    assert 0.97 / 8 < np.abs(start).max() <= 1 / 8
    assert layer(tf.ones([2, 64], tf.bfloat16)).dtype == tf.float32
    assert layer.compute_output_shape((2, 64)) == (2, 400)
    copy = cls.from_config(layer.get_config())
    copy.build((None, 64))
    copy.set_weights(layer.get_weights())
    x = np.random.default_rng(3).normal(size=(3, 64)).astype("float32")
    np.testing.assert_array_equal(copy(x), layer(x))
    assert copy.get_config() == layer.get_config()
    exact = cls(3, name="exact", dtype="float64")
    assert exact(x.astype("float64")).dtype == tf.float64
    with pytest.raises(ValueError, match="Received: 0"):
        cls(0)
