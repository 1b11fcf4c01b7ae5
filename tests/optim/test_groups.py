import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.optim import SGD, Group, WarmupSchedule, make_optimizer, variable_roles


@pytest.fixture
def model():
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")]
    model = keras.Sequential(layers, name="m")
    model.build((None, 4))
    return model


def moved(model, optimizer, groups, steps=3):
    """How far every variable goes under a gradient of ones, step by step: [steps, variables]."""
    optimizer.set_roles(variable_roles(model), groups)
    optimizer.build(model.trainable_variables)
    distances = []
    for _ in range(steps):
        before = [v.numpy().copy() for v in model.trainable_variables]
        optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables])
        now = [v.numpy() for v in model.trainable_variables]
        distances.append([(b - n).mean() for b, n in zip(before, now, strict=True)])
    return np.array(distances)


def falling(peak=0.1):
    return WarmupSchedule(peak, total_steps=3, decay="step", decay_steps=[1, 2], decay_rate=0.5)


def test_a_constant_rate_stays_at_the_peak_while_the_others_fall(model):
    groups = [Group(layers=(model.layers[1],), constant_rate=True)]
    found = moved(model, SGD(falling(), momentum=0.0), groups)
    np.testing.assert_allclose(found[:, 0], [0.1, 0.05, 0.025], rtol=1e-5)
    np.testing.assert_allclose(found[:, 2:], 0.1, rtol=1e-5)


def test_a_number_is_a_constant_rate_already(model):
    groups = [Group(layers=(model.layers[1],), constant_rate=True)]
    np.testing.assert_allclose(moved(model, SGD(0.1, momentum=0.0), groups), 0.1, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_roles_have_a_rate_of_their_own(model, name):
    optimizer = make_optimizer(name, learning_rate=0.1, momentum=0.0)
    found = moved(model, optimizer, [Group(roles=("bias", "norm"), rate_scale=0.25)])
    np.testing.assert_allclose(found[:, 1::2], 0.25 * found[:, ::2], rtol=1e-4)


def test_layers_and_roles_together_are_what_is_in_both(model):
    group = Group(layers=(model.layers[0],), roles=("bias",), rate_scale=0.5)
    found = moved(model, SGD(0.1, momentum=0.0), [group])
    np.testing.assert_allclose(found[0], [0.1, 0.05, 0.1, 0.1], rtol=1e-5)


def test_momentum_of_its_own_forgets_the_gradients_before(model):
    groups = [Group(layers=(model.layers[1],), momentum=0.0)]
    found = moved(model, SGD(0.1, momentum=0.5), groups)
    np.testing.assert_allclose(found[:, 0], [0.1, 0.15, 0.175], rtol=1e-5)
    np.testing.assert_allclose(found[:, 2:], 0.1, rtol=1e-5)


def test_a_group_stands_still_at_first_and_its_velocity_too(model):
    groups = [Group(layers=(model.layers[1],), freeze_steps=2)]
    found = moved(model, SGD(0.1, momentum=0.5), groups, steps=4)
    np.testing.assert_array_equal(found[:2, 2:], 0)
    np.testing.assert_allclose(found[2:, 2:].T, [[0.1, 0.15]] * 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: [Group(rate_scale=2.0)], "needs layers or roles"),
        (lambda m: [Group(roles=("norm",))], "without variables"),
        (lambda m: [Group(layers=(m.layers[0],)), Group(roles=("bias",))], "share variables"),
    ],
)
def test_groups_that_hold_nothing_or_the_same_are_refused(model, make, message):
    with pytest.raises(ValueError, match=message):
        SGD(0.1).set_roles(variable_roles(model), make(model))
