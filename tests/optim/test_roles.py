import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.optim import SGD, variable_roles


class Scale(keras.layers.Layer):
    """Keeps running statistics, so it is a normalisation, whatever its variables are called."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(1, shape[-1]), name="kernel")
        self.moving_variance = self.add_weight(shape=(shape[-1],), trainable=False, name="mv")

    def call(self, x):
        return x * self.kernel


def small_model():
    """A model whose names say nothing, or the wrong thing."""
    layers = keras.layers
    inner = keras.Sequential(
        [layers.Dense(4, name="gamma"), layers.LayerNormalization(name="a")], name="i"
    )
    model = keras.Sequential(
        [
            layers.Conv2D(3, 3, name="batch_normalization"),
            layers.BatchNormalization(name="conv"),
            layers.LayerNormalization(axis=(1, 2, 3), name="kernel"),
            layers.GlobalAveragePooling2D(name="pool"),
            inner,
            Scale(name="s"),
        ],
        name="m",
    )
    model.build((None, 5, 5, 3))
    return model


def test_roles_follow_layer_and_rank():
    model = small_model()
    roles = variable_roles(model)
    found = [roles[id(v)] for v in model.trainable_variables]
    assert found == ["kernel", "bias"] + ["norm"] * 4 + ["kernel", "bias"] + ["norm"] * 3
    assert len(roles) == len(found)


def test_extra_roles_take_a_layers_variables_whatever_their_kind():
    model = small_model()
    roles = variable_roles(model, {"head": [model.layers[4]]})
    assert [roles[id(v)] for v in model.trainable_variables[6:10]] == ["head"] * 4


def test_an_unbuilt_model_is_refused():
    model = keras.Sequential([keras.layers.Dense(2, name="fc")], name="unbuilt")
    with pytest.raises(ValueError, match=r"once the model is built. Received: 'unbuilt'"):
        variable_roles(model)


@pytest.mark.parametrize(
    ("exclude", "given"),
    [
        (("norm",), True),
        (("bias",), True),
        (("kernel", "norm"), True),
        (("bias", "norm"), True),
        ((), False),
    ],
)
def test_only_excluded_roles_keep_their_values_without_gradient(exclude, given):
    model = small_model()
    roles = variable_roles(model)
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    optimizer = SGD(1.0, momentum=0.0, weight_decay=0.25, exclude_from_decay=exclude)
    if given:
        optimizer.set_roles(roles)
    optimizer.build(model.trainable_variables)
    optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables])
    for variable in model.trainable_variables:
        expected = 1.0 if roles[id(variable)] in exclude else 0.75
        np.testing.assert_array_equal(variable.numpy(), np.full(variable.shape, expected))
