import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.methods import VICReg, VICRegConfig
from tfcontrast.optim import SGD

TINY = VICRegConfig(num_proj_layers=2, proj_hidden_dim=32, proj_out_dim=16)
TERMS = ("invariance", "variance", "covariance")


@pytest.fixture
def golden_outputs(golden_views):
    rows = tf.constant(np.concatenate(golden_views[:2]), tf.float32)
    return {"features": rows, "embeddings": rows}


@pytest.fixture
def losses_of(tiny_backbone):
    def compute(outputs, **options):
        config = dataclasses.replace(TINY, **options)
        return VICReg(tiny_backbone(), config).compute_losses(outputs, {})

    return compute


def test_the_golden_values(losses_of, golden_outputs):
    found = losses_of(golden_outputs)
    assert tuple(found) == VICReg.metric_names
    golden = dict(zip(TERMS, (0.4195590952, 0.3014963348, 1.4098244866), strict=True))
    for name, value in {**golden, "loss": 19.4362102380}.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("halves", [True, False])
def test_the_weights_are_of_their_terms(losses_of, golden_outputs, golden_views, halves):
    z1, z2, _ = golden_views
    weights = {"invariance_weight": 2.0, "variance_weight": 3.0, "covariance_weight": 5.0}
    found = losses_of(golden_outputs, variance_halves=halves, **weights)
    expected = losses.vicreg(z1, z2, halves=halves, **weights)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    for number, name in enumerate(TERMS):
        only = {f"{term}_weight": float(number == k) for k, term in enumerate(TERMS)}
        alone = losses_of(golden_outputs, variance_halves=halves, **only)
        np.testing.assert_allclose(alone["loss"], found[name], rtol=1e-6)


def test_what_does_not_matter_and_the_ends(losses_of, golden_outputs):
    z = golden_outputs["embeddings"]
    value = float(losses_of(golden_outputs)["loss"])
    moved = losses_of({**golden_outputs, "embeddings": z + 3.0})
    assert float(moved["loss"]) == pytest.approx(value, rel=1e-4)
    swapped = tf.concat(tf.split(z, 2)[::-1], 0)
    assert float(losses_of({**golden_outputs, "embeddings": swapped})["loss"]) == pytest.approx(
        value, rel=1e-6
    )
    constant = losses_of({**golden_outputs, "embeddings": tf.ones([8, 6])})
    assert float(constant["loss"]) == pytest.approx(24.75, rel=1e-5)
    assert float(constant["effective_channels"]) == 0
    rows = np.random.default_rng(0).normal(size=(32, 4))
    white, _ = np.linalg.qr(rows - rows.mean(0))
    both = tf.constant(np.concatenate([white] * 2) * np.sqrt(31) * 1.01, tf.float32)
    assert float(losses_of({**golden_outputs, "embeddings": both})["loss"]) < 1e-8


def test_both_views_carry_the_gradient_and_metrics_do_not(losses_of, golden_outputs):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(golden_outputs)
        found = losses_of(golden_outputs)
    gradient = tape.gradient(found["loss"], golden_outputs["embeddings"]).numpy()
    assert all(np.abs(half).max() > 1e-2 for half in np.split(gradient, 2))
    for name in VICReg.metric_names[1:]:
        assert set(tape.gradient(found[name], golden_outputs).values()) == {None}


def test_every_view_is_a_batch_of_its_own_for_batch_norm(make_method):
    method = make_method("vicreg", config=TINY)
    views = np.random.default_rng(0).random([2, 6, 8, 8, 3]).astype(np.float32)
    trained = method(list(views), training=True)
    alone = method([views[0], views[0] / 2], training=True)
    for name in ("features", "embeddings"):
        np.testing.assert_array_equal(trained[name][:6], alone[name][:6], err_msg=name)
        assert np.any(trained[name][6:] != alone[name][6:]), name


def test_the_expander_is_the_released_codes_without_biases_that_do_nothing(tiny_backbone):
    method = VICReg(tiny_backbone(), VICRegConfig(proj_hidden_dim=9, proj_out_dim=7))
    method([tf.zeros([2, 8, 8, 3])] * 2)
    layers, norms = method.projector.dense_layers, method.projector.norms
    assert [(layer.units, layer.use_bias) for layer in layers] == [
        (9, False),
        (9, False),
        (7, False),
    ]
    assert [norm is not None for norm in norms] == [True, True, False]


def test_the_defaults_are_the_released_recipes():
    config, pretrain = VICRegConfig(), VICRegConfig.DEFAULTS["pretrain"]
    assert (config.num_proj_layers, config.proj_hidden_dim, config.proj_out_dim) == (3, 8192, 8192)
    weights = config.invariance_weight, config.variance_weight, config.covariance_weight
    assert weights == (25.0, 25.0, 1.0)
    assert config.variance_halves
    assert (pretrain["lars_variant"], pretrain["learning_rate"]) == ("byol", 0.2)
    assert (pretrain["train_batch_size"], pretrain["weight_decay"]) == (2048, 1e-6)


@pytest.fixture
def trained(make_method, fit_digits):
    """A function that trains with these options on the digits for 200 steps."""

    def run(**options):
        method = make_method(
            "vicreg",
            config=dataclasses.replace(TINY, **options),
            classes=0,
            optimizer=lambda: SGD(0.01, momentum=0.9),
        )
        return fit_digits(method, 200)

    return run


def test_it_collapses_without_the_variance_term_and_repeats_itself_without_covariance(trained):
    real = trained()
    collapsed = trained(variance_weight=0.0)
    redundant = trained(covariance_weight=0.0)
    assert real["variance"] < 0.3  # 0.10 was seen
    assert collapsed["variance"] > 0.95  # 0.987
    assert collapsed["loss"] < 0.01
    assert real["effective_channels"] > 3  # 4.6
    assert redundant["effective_channels"] < 1.5  # 1.002
