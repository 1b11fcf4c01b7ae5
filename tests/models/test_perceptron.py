"""The perceptron against its layers in NumPy, and each method's head by its variables."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import Perceptron

INPUTS = np.random.default_rng(0).normal(size=(16, 12)).astype("float32")

# Constructor's arguments and the variables that follow: d dense kernel, b bias, g gamma, o offset
# (beta) and "." between the layers; moving statistics come with every norm.
HEADS = {
    "moco_v1": ({"widths": (8,)}, "db"),
    "moco_v2": ({"widths": (0, 8), "hidden_bias": True, "hidden_norm": "none"}, "db.db"),
    "moco_v3_projector": (
        {"widths": (24, 8), "output_bias": False, "output_norm": "plain"},
        "dgo.d",
    ),
    "moco_v3_vit_projector": (
        {"widths": (24, 24, 8), "output_bias": False, "output_norm": "plain"},
        "dgo.dgo.d",
    ),
    "moco_v3_predictor": ({"widths": (24, 8), "output_bias": False}, "dgo.d"),
    "byol": ({"widths": (24, 8), "hidden_bias": True, "output_bias": False}, "dbgo.d"),
    "simsiam_projector": (
        {"widths": (12, 12, 12), "output_bias": False, "output_norm": "plain"},
        "dgo.dgo.d",
    ),
    "simsiam_predictor": ({"widths": (4, 12)}, "dgo.db"),
    "barlow_twins": ({"widths": (24, 24, 24), "output_bias": False}, "dgo.dgo.d"),
    "vicreg": ({"widths": (24, 24, 24), "hidden_bias": True, "output_bias": False}, "dbgo.dbgo.d"),
    "nnclr_projector": (
        {"widths": (24, 24, 8), "hidden_bias": True, "output_norm": "affine"},
        "dbgo.dbgo.dbgo",
    ),
    "swav": ({"widths": (24, 8), "hidden_bias": True}, "dbgo.db"),
    "dino": (
        {
            "widths": (24, 24, 8),
            "hidden_bias": True,
            "hidden_norm": "none",
            "activation": "gelu",
            "initialization": "trunc_normal",
        },
        "db.db.db",
    ),
    "simclr": ({"widths": (0, 8), "output_bias": False, "output_norm": "scale"}, "dgo.dg"),
}


def _built(**options):
    model = Perceptron(**options)
    model.build((None, 12))
    return model


def _value(variable):
    return np.asarray(variable, "float64")


def _slow(model, x, activation, statistics):
    """All outputs; `statistics(norm, x)` tells mean and variance."""
    results = [x]
    for i, (dense, norm) in enumerate(zip(model.dense_layers, model.norms, strict=True)):
        x = x @ _value(dense.kernel)
        if dense.bias is not None:
            x = x + _value(dense.bias)
        if norm is not None:
            mean, variance = statistics(norm, x)
            x = (x - mean) / np.sqrt(variance + 1e-5)
            x = x if norm.gamma is None else x * _value(norm.gamma)
            x = x if norm.beta is None else x + _value(norm.beta)
        if i + 1 < len(model.dense_layers):
            if activation == "relu":
                x = np.maximum(x, 0)
            else:
                x = np.vectorize(lambda t: t * 0.5 * (1 + math.erf(t / math.sqrt(2))))(x)
        results.append(x)
    return results


@pytest.mark.parametrize("name", HEADS)
def test_every_methods_head_is_numpys(name):
    options, layers = HEADS[name]
    model = _built(**options)
    letters = {"kernel": "d", "bias": "b", "gamma": "g", "beta": "o"}
    found = [
        "".join(letters[v.name] for v in [*dense.variables, *(norm.trainable_variables)])
        for dense, norm in (
            (dense, norm or keras.layers.Layer())
            for dense, norm in zip(model.dense_layers, model.norms, strict=True)
        )
    ]
    assert ".".join(found) == layers
    assert len(model.trainable_variables) == len(layers.replace(".", ""))
    norms = [norm for norm in model.norms if norm is not None]
    assert len(model.variables) == len(model.trainable_variables) + 2 * len(norms)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        if variable.name != "kernel":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    activation = options.get("activation", "relu")
    expected = _slow(
        model, INPUTS.astype("float64"), activation, lambda _, x: (x.mean(0), x.var(0))
    )
    for ours, theirs in zip(model.outputs(tf.constant(INPUTS), True), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-5)
    for norm in norms:
        norm.moving_mean.assign(rng.normal(0, 0.3, norm.moving_mean.shape))
        norm.moving_variance.assign(rng.uniform(0.5, 2, norm.moving_mean.shape))
    expected = _slow(
        model,
        INPUTS.astype("float64"),
        activation,
        lambda norm, _: (_value(norm.moving_mean), _value(norm.moving_variance)),
    )[-1]
    np.testing.assert_allclose(model(INPUTS), expected, atol=5e-5)
    assert model.compute_output_shape((3, 12)) == (3, expected.shape[1])
    assert model.embedding_dim == expected.shape[1]


@pytest.mark.parametrize("name", HEADS)
def test_every_variable_that_can_have_a_gradient_has_one(name):
    model = _built(**HEADS[name][0])
    target = np.random.default_rng(2).normal(size=(16, model.embedding_dim)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(INPUTS, training=True) - target) ** 2)
    gradients = tape.gradient(loss, [v.value for v in model.trainable_variables])
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        # a batch norm takes out the bias before it
        layer = int(variable.path.split("/")[-2][-1]) - 1
        idle = variable.name == "bias" and model.norms[layer] is not None
        assert (np.abs(gradient).max() > 1e-5) != idle, variable.path


def test_zero_stands_for_the_inputs_width():
    model = _built(widths=(0, 7, 0))
    assert [dense.units for dense in model.dense_layers] == [12, 7, 12]
    assert model.embedding_dim == 12
    assert model.compute_output_shape((None, 12)) == (None, 12)
    with pytest.raises(ValueError, match="not built"):
        _ = Perceptron(widths=(4, 0)).embedding_dim
    assert Perceptron(widths=(4, 9)).embedding_dim == 9


def test_initial_values_of_torch_reach_the_biases():
    model = Perceptron(widths=(512, 256), hidden_bias=True)
    model.build((None, 64))
    for dense, fan_in in zip(model.dense_layers, (64, 512), strict=True):
        limit = fan_in**-0.5
        for variable in (dense.kernel, dense.bias):
            assert 0.97 * limit < np.abs(variable).max() <= limit
            assert np.std(variable) == pytest.approx(limit / math.sqrt(3), rel=0.1)
    assert not np.array_equal(model.dense_layers[0].kernel[0, :256], model.dense_layers[1].bias)


def test_initial_values_of_trunc_normal():
    model = Perceptron(widths=(256, 256), hidden_bias=True, initialization="trunc_normal")
    model.build((None, 256))
    for dense in model.dense_layers:
        assert np.std(dense.kernel) == pytest.approx(0.02, rel=0.02)
        assert not np.any(dense.bias)
    kernels = [dense.kernel.numpy() for dense in model.dense_layers]
    assert not np.array_equal(*kernels)


def test_the_last_layer_is_float32_in_mixed_precision():
    model = _built(widths=(8, 8, 4), output_norm="plain", dtype="mixed_bfloat16")
    outputs = model.outputs(tf.constant(INPUTS), True)
    assert [o.dtype.name for o in outputs] == ["float32", "bfloat16", "bfloat16", "float32"]
    assert model.dense_layers[-1].compute_dtype == "float32"
    exact = _built(widths=(8, 8, 4), output_norm="plain")
    exact.set_weights(model.get_weights())
    assert np.abs(model(INPUTS) - exact(INPUTS)).max() < 0.02
    assert _built(widths=(4,), dtype="float64")(INPUTS.astype("float64")).dtype == tf.float64


@pytest.mark.parametrize("global_bn", [True, False])
def test_global_bn_and_decay_reach_every_norm(global_bn):
    model = _built(widths=(8, 4), output_norm="plain", global_bn=global_bn, batch_norm_decay=0.7)
    assert [norm.synchronized for norm in model.norms] == [global_bn] * 2
    assert [norm.momentum for norm in model.norms] == [0.7] * 2


@pytest.mark.parametrize("name", ["moco_v2", "simsiam_projector", "dino"])
def test_a_saved_perceptron_comes_back_whole(tmp_path, name):
    model = _built(**HEADS[name][0], dtype="mixed_bfloat16", name="head")
    model(INPUTS)
    model.save(tmp_path / "head.keras")
    copy = keras.models.load_model(tmp_path / "head.keras")
    assert copy.get_config() == model.get_config()
    np.testing.assert_array_equal(copy(INPUTS), model(INPUTS))


@pytest.mark.parametrize(
    "options",
    [
        {"widths": ()},
        {"widths": (8, -1)},
        {"widths": (8,), "hidden_norm": "layer"},
        {"widths": (8,), "output_norm": "bn"},
        {"widths": (8,), "activation": "swish"},
        {"widths": (8,), "initialization": "he"},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        Perceptron(**options)
