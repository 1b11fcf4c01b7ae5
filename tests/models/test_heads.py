"""The projector against its layers in NumPy, in each of its modes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import Projector

FEATURES = np.random.default_rng(0).normal(size=(16, 12)).astype("float32")


def _built(**options):
    model = Projector(**options)
    model.build((None, 12))
    return model


def _batch_norm(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def _value(variable):
    return np.asarray(variable, "float64")


@pytest.mark.parametrize("num_layers", [1, 2, 3, 5])
@pytest.mark.parametrize("hidden_dim", [0, 7])
def test_batch_norm_projector_is_numpys(num_layers, hidden_dim):
    model = _built(num_layers=num_layers, hidden_dim=hidden_dim, output_dim=6)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        if variable.name != "kernel":
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    expected = [FEATURES.astype("float64")]
    for i, (dense, norm) in enumerate(zip(model.dense_layers, model.norms, strict=True), 1):
        # kernels start at N(0, 0.01): so small that epsilon counts, so scale them up
        dense.kernel.assign(_value(dense.kernel) * 100)
        x = _batch_norm(expected[-1] @ _value(dense.kernel)) * _value(norm.gamma)
        if i < num_layers:
            x = np.maximum(x + _value(norm.beta), 0)
        expected.append(x)
    outputs = model.outputs(tf.constant(FEATURES), training=True)
    assert len(outputs) == num_layers + 1
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    assert [o.shape[1] for o in outputs] == [12] + [hidden_dim or 12] * (num_layers - 1) + [6]
    assert model.norms[-1].beta is None
    assert all(norm.beta is not None for norm in model.norms[:-1])


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_plain_projector_is_numpys(num_layers):
    model = _built(num_layers=num_layers, output_dim=6, batch_norm=False)
    x = FEATURES.astype("float64")
    for i, dense in enumerate(model.dense_layers, 1):
        dense.bias.assign(np.linspace(-0.5, 0.5, dense.units))
        x = x @ _value(dense.kernel) + _value(dense.bias)
        x = x if i == num_layers else np.maximum(x, 0)
    np.testing.assert_allclose(model(FEATURES), x, atol=1e-5)
    assert model.norms == []


def test_training_moves_the_statistics_and_inference_uses_them():
    model = _built(num_layers=2)
    before = model(FEATURES).numpy()
    model(FEATURES, training=True)
    after = model(FEATURES).numpy()
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_array_equal(after, model(FEATURES))


def test_modes():
    none = _built(mode="none")
    np.testing.assert_array_equal(none(FEATURES), FEATURES)
    assert none.embedding_dim == 12
    assert none.variables == []
    assert len(none.outputs(FEATURES)) == 1
    linear = _built(mode="linear", num_layers=3, output_dim=5)
    assert len(linear.outputs(FEATURES)) == 2
    assert linear.embedding_dim == 5
    assert len(_built(num_layers=3).outputs(FEATURES)) == 4


def test_width_of_an_unbuilt_identity_is_unknown():
    with pytest.raises(ValueError, match="not built"):
        _ = Projector(mode="none").embedding_dim
    assert Projector(output_dim=9).embedding_dim == 9


def test_initial_values():
    model = Projector(num_layers=2, output_dim=256)
    model.build((None, 512))
    for dense in model.dense_layers:
        assert np.std(dense.kernel) == pytest.approx(0.01, rel=0.02)
        assert dense.bias is None
    plain = Projector(num_layers=2, output_dim=256, batch_norm=False)
    plain.build((None, 512))
    for dense in plain.dense_layers:
        assert np.abs(dense.kernel).max() == pytest.approx(512**-0.5, rel=0.01)
        assert not np.any(dense.bias)


def test_the_last_layer_is_float32_in_mixed_precision():
    outputs = _built(num_layers=3, dtype="mixed_bfloat16").outputs(tf.constant(FEATURES), True)
    assert [o.dtype.name for o in outputs] == ["float32", "bfloat16", "bfloat16", "float32"]
    assert _built(dtype="float64")(FEATURES.astype("float64")).dtype == tf.float64


@pytest.mark.parametrize("global_bn", [True, False])
def test_global_bn_reaches_every_norm(global_bn):
    norms = _built(num_layers=3, global_bn=global_bn, batch_norm_decay=0.7).norms
    assert [norm.synchronized for norm in norms] == [global_bn] * 3
    assert [norm.momentum for norm in norms] == [0.7] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "none"},
        {"mode": "linear", "batch_norm": False},
        {"num_layers": 3, "hidden_dim": 7, "dtype": "mixed_bfloat16", "name": "head"},
    ],
)
def test_a_saved_projector_comes_back_whole(tmp_path, options):
    model = _built(**options)
    model(FEATURES)
    model.save(tmp_path / "head.keras")
    copy = keras.models.load_model(tmp_path / "head.keras")
    assert copy.get_config() == model.get_config()
    np.testing.assert_array_equal(copy(FEATURES), model(FEATURES))


@pytest.mark.parametrize(
    "options", [{"mode": "deep"}, {"num_layers": 0}, {"hidden_dim": -1}, {"output_dim": 0}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        Projector(**options)
