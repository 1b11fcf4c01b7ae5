import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.methods import BarlowTwins, BarlowTwinsConfig
from tfcontrast.optim import SGD

TINY = BarlowTwinsConfig(
    num_proj_layers=2, proj_hidden_dim=32, proj_out_dim=16, loss_scale=0.1, bias_rate_scale=1.0
)


@pytest.fixture
def golden_outputs(golden_views):
    rows = tf.constant(np.concatenate(golden_views[:2]), tf.float32)
    return {"features": rows, "embeddings": rows}


@pytest.fixture
def losses_of(tiny_backbone):
    def compute(outputs, **options):
        config = dataclasses.replace(TINY, **options)
        return BarlowTwins(tiny_backbone(), config).compute_losses(outputs, {})

    return compute


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_the_golden_value_times_the_scale(losses_of, golden_outputs, scale):
    found = losses_of(golden_outputs, loss_scale=scale)
    assert tuple(found) == BarlowTwins.metric_names
    assert float(found["loss"]) == pytest.approx(scale * 1.2106349695, rel=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_weight_is_of_the_off_diagonal_part(losses_of, golden_outputs, golden_views, weight):
    z1, z2, _ = golden_views
    found = losses_of(golden_outputs, loss_scale=1.0, off_diagonal_weight=weight)
    expected = losses.barlow_twins(z1, z2, off_diagonal_weight=weight)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    total = float(found["on_diagonal"]) + weight * float(found["off_diagonal"])
    assert float(found["loss"]) == pytest.approx(total, rel=1e-5)
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(z1, rowvar=False))
    ratio = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert float(found["effective_channels"]) == pytest.approx(ratio, rel=1e-3)


def test_white_equal_views_lose_nothing_and_a_flipped_channel_four(losses_of):
    rows = np.random.default_rng(0).normal(size=(32, 4))
    white, _ = np.linalg.qr(rows - rows.mean(0))
    for sign, expected in ((1.0, 0.0), (-1.0, 4.0)):
        both = np.concatenate([white, white * [1, 1, sign, 1]]) * np.sqrt(32)
        outputs = dict.fromkeys(("features", "embeddings"), tf.constant(both, tf.float32))
        found = losses_of(outputs, loss_scale=1.0)
        assert float(found["on_diagonal"]) == pytest.approx(expected, abs=1e-3)
        assert float(found["loss"]) == pytest.approx(expected, abs=1e-3)
        assert float(found["effective_channels"]) == pytest.approx(4, rel=1e-3)


def test_both_views_carry_the_gradient_and_metrics_do_not(losses_of, golden_outputs):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(golden_outputs)
        found = losses_of(golden_outputs)
    gradient = tape.gradient(found["loss"], golden_outputs["embeddings"]).numpy()
    assert all(np.abs(half).max() > 1e-4 for half in np.split(gradient, 2))
    for name in BarlowTwins.metric_names[1:]:
        assert set(tape.gradient(found[name], golden_outputs).values()) == {None}


def test_every_view_is_a_batch_of_its_own_for_batch_norm(make_method):
    method = make_method("barlow_twins", config=TINY)
    views = np.random.default_rng(0).random([2, 6, 8, 8, 3]).astype(np.float32)
    trained = method(list(views), training=True)
    alone = method([views[0], views[0] / 2], training=True)
    for name in ("features", "embeddings"):
        np.testing.assert_array_equal(trained[name][:6], alone[name][:6], err_msg=name)
        assert np.any(trained[name][6:] != alone[name][6:]), name


def test_biases_and_norms_have_their_share_of_the_learning_rate(make_method, fit):
    moves = {}
    for scale in (1.0, 0.25):
        config = dataclasses.replace(TINY, bias_rate_scale=scale)
        method = make_method(
            "barlow_twins", config=config, classes=0, optimizer=lambda: SGD(0.1, momentum=0.0)
        )
        before = [v.numpy().copy() for v in method.encoder_variables]
        fit(method, 1)
        after = zip(method.encoder_variables, before, strict=True)
        moves[scale] = {v.path: v.numpy() - value for v, value in after}
    spared = [path for path in moves[1.0] if path.endswith(("gamma", "beta"))]
    assert 0 < len(spared) < len(moves[1.0])
    for path, moved in moves[1.0].items():
        factor = 0.25 if path in spared else 1
        atol = 1e-3 * np.abs(moved).max()
        np.testing.assert_allclose(moves[0.25][path], factor * moved, 0, atol, err_msg=path)


def test_the_projector_is_the_papers(tiny_backbone):
    method = BarlowTwins(tiny_backbone(), BarlowTwinsConfig(proj_hidden_dim=9, proj_out_dim=7))
    method([tf.zeros([2, 8, 8, 3])] * 2)
    layers, norms = method.projector.dense_layers, method.projector.norms
    assert [(layer.units, layer.use_bias) for layer in layers] == [
        (9, False),
        (9, False),
        (7, False),
    ]
    assert [norm is not None for norm in norms] == [True, True, False]


def test_the_defaults_are_the_papers():
    config, pretrain = BarlowTwinsConfig(), BarlowTwinsConfig.DEFAULTS["pretrain"]
    assert (config.num_proj_layers, config.proj_hidden_dim, config.proj_out_dim) == (3, 8192, 8192)
    assert (config.off_diagonal_weight, config.loss_scale) == (0.0051, 1.0)
    assert config.bias_rate_scale * pretrain["learning_rate"] == pytest.approx(0.0048)
    assert (pretrain["lars_variant"], pretrain["train_batch_size"]) == ("byol", 2048)
    assert (pretrain["weight_decay"], pretrain["final_learning_rate"]) == (1e-6, 0.001)


def test_channels_repeat_each_other_without_the_off_diagonal_part(make_method, fit_digits):
    found = {}
    for weight in (0.05, 0.0):
        config = dataclasses.replace(TINY, off_diagonal_weight=weight)
        method = make_method(
            "barlow_twins", config=config, classes=0, optimizer=lambda: SGD(0.05, momentum=0.9)
        )
        found[weight] = fit_digits(method, 200)
    assert found[0.05]["effective_channels"] > 4  # 7.4 was seen, of 16
    assert found[0.0]["effective_channels"] < 1.5  # 1.02
    assert found[0.0]["loss"] < 0.05
