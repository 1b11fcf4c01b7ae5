import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import METHODS, SimSiam, SimSiamConfig
from tfcontrast.optim import SGD, WarmupSchedule

TINY = SimSiamConfig(num_proj_layers=2, proj_hidden_dim=32, proj_out_dim=16, pred_hidden_dim=8)


def both(z1, z2):
    return tf.constant(np.concatenate([z1, z2]), tf.float32)


@pytest.fixture
def outputs():
    rng = np.random.default_rng(3)
    return {
        "features": tf.constant(rng.normal(size=(12, 5)), tf.float32),
        "embeddings": tf.constant(rng.normal(size=(12, 4)), tf.float32),
        "predictions": tf.constant(rng.normal(size=(12, 4)), tf.float32),
    }


@pytest.fixture
def loss_of(tiny_backbone):
    method = SimSiam(tiny_backbone(), TINY)
    return lambda outputs: method.compute_losses(outputs, {})


def cosines(rows, others):
    a, b = (np.asarray(x, np.float64) for x in (rows, others))
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_the_golden_value(loss_of, golden_views):
    z1, z2, _ = golden_views
    rows = both(z1, z2)
    found = loss_of({"features": rows, "embeddings": rows, "predictions": rows})
    assert tuple(found) == SimSiam.metric_names
    assert float(found["loss"]) == pytest.approx(-0.5858136386, abs=1e-6)


def test_the_loss_is_equation_2(loss_of, outputs):
    p1, p2 = np.split(outputs["predictions"], 2)
    z1, z2 = np.split(outputs["embeddings"], 2)
    expected = -(cosines(p1, z2).mean() + cosines(p2, z1).mean()) / 2
    found = loss_of(outputs)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    z = np.asarray(outputs["embeddings"], np.float64)
    spread = (z / np.linalg.norm(z, axis=1, keepdims=True)).std(0).mean()
    np.testing.assert_allclose(found["embedding_std"], spread, rtol=1e-5)


def test_what_does_not_matter_to_the_loss_and_its_ends(loss_of, outputs):
    value = float(loss_of(outputs)["loss"])
    swapped = {name: tf.concat(tf.split(rows, 2)[::-1], 0) for name, rows in outputs.items()}
    assert float(loss_of(swapped)["loss"]) == pytest.approx(value, abs=1e-6)
    longer = {**outputs, "predictions": 10 * outputs["predictions"]}
    assert float(loss_of(longer)["loss"]) == pytest.approx(value, abs=1e-6)
    same = both(*[np.split(outputs["embeddings"], 2)[0]] * 2)
    for sign, end in ((1, -1), (-1, 1)):
        ends = {**outputs, "embeddings": same, "predictions": sign * same}
        assert float(loss_of(ends)["loss"]) == pytest.approx(end, abs=1e-6)


def test_only_predictions_carry_the_gradient(loss_of, outputs):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outputs)
        found = loss_of(outputs)
    assert tape.gradient(found["loss"], outputs["embeddings"]) is None
    assert np.abs(tape.gradient(found["loss"], outputs["predictions"])).max() > 1e-3
    for name in SimSiam.metric_names[1:]:
        assert set(tape.gradient(found[name], outputs).values()) == {None}


def test_every_view_is_a_batch_of_its_own_for_batch_norm(make_method):
    method = make_method("simsiam", config=TINY)
    rng = np.random.default_rng(0)
    views = [tf.constant(rng.random([6, 8, 8, 3]) * size, tf.float32) for size in (1.0, 0.5)]
    norm = method.backbone.norm1
    expected = norm.moving_mean.numpy()
    for view in views:
        mean = np.mean(method.backbone.conv1(view), axis=(0, 1, 2))
        expected = norm.momentum * expected + (1 - norm.momentum) * mean
    trained = method(views, training=True)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-5)
    alone = method([views[0], views[0]], training=True)
    for name in ("features", "embeddings", "predictions"):
        np.testing.assert_array_equal(trained[name][:6], alone[name][:6], err_msg=name)
        assert np.any(trained[name][6:] != alone[name][6:]), name


def test_the_heads_are_the_papers(tiny_backbone):
    method = SimSiam(tiny_backbone(), SimSiamConfig(proj_hidden_dim=9, proj_out_dim=7))
    method([tf.zeros([2, 8, 8, 3])] * 2)
    projector, predictor = method.projector, method.predictor
    assert [layer.units for layer in projector.dense_layers] == [9, 9, 7]
    assert not any(layer.use_bias for layer in projector.dense_layers)
    assert [(norm.center, norm.scale) for norm in projector.norms] == [
        (True, True), (True, True), (False, False)
    ]  # fmt: skip
    assert [(layer.units, layer.use_bias) for layer in predictor.dense_layers] == [
        (512, False), (7, True)
    ]  # fmt: skip
    assert predictor.norms[1] is None
    assert (predictor.norms[0].center, predictor.norms[0].scale) == (True, True)


@pytest.mark.parametrize("fixed", [True, False])
def test_the_predictors_rate_is_not_decayed_unless_asked_for(make_method, fit, fixed):
    schedule = WarmupSchedule(0.1, total_steps=9, decay="step", decay_steps=[1, 2], decay_rate=0.5)
    moves = []
    for rate in (schedule, 0.025):  # what the schedule has come to at step 2
        config = dataclasses.replace(TINY, fix_pred_lr=fixed)
        method = make_method(
            "simsiam", config=config, classes=0, optimizer=lambda rate=rate: SGD(rate, momentum=0.0)
        )
        method.optimizer.iterations.assign(2)
        before = [v.numpy().copy() for v in method.encoder_variables]
        fit(method, 1)
        moves.append(
            {v.path: v.numpy() - b for v, b in zip(method.encoder_variables, before, strict=True)}
        )
    for path, moved in moves[0].items():
        factor = 4 if fixed and "/predictor/" in path else 1
        np.testing.assert_allclose(moved, factor * moves[1][path], rtol=1e-3, atol=1e-7)
    assert any("/predictor/" in path for path in moves[0])


def test_the_defaults_are_the_papers():
    config, pretrain = SimSiamConfig(), SimSiamConfig.DEFAULTS["pretrain"]
    assert (config.num_proj_layers, config.proj_hidden_dim, config.proj_out_dim) == (3, 2048, 2048)
    assert (config.pred_hidden_dim, config.fix_pred_lr) == (512, True)
    assert (pretrain["optimizer"], pretrain["learning_rate"], pretrain["train_batch_size"]) == (
        "sgd", 0.05, 512,
    )  # fmt: skip
    assert (pretrain["weight_decay"], pretrain["decay_all"]) == (1e-4, True)
    assert (pretrain["warmup_epochs"], pretrain["schedule_by_epoch"]) == (0.0, True)
    assert METHODS["simsiam"] is SimSiam


class Changed(SimSiam):
    """The real thing, unless a subclass takes something away."""

    stops_gradient = True
    predicts = True

    def call(self, views, training=False):
        outputs = super().call(views, training)
        return outputs if self.predicts else {**outputs, "predictions": outputs["embeddings"]}

    def compute_losses(self, outputs, batch):
        found = super().compute_losses(outputs, batch)
        if self.stops_gradient:
            return found
        p1, p2 = tf.split(tf.math.l2_normalize(outputs["predictions"], 1), 2)
        z1, z2 = tf.split(tf.math.l2_normalize(outputs["embeddings"], 1), 2)
        loss = -tf.reduce_mean(tf.reduce_sum(p1 * z2 + p2 * z1, 1)) / 2
        return {**found, "loss": loss}


class Unnormalised(Changed):
    """Without the projector's last batch norm, behind which a collapse hides."""

    @classmethod
    def make_projector(cls, config, *, global_bn=True):
        projector = SimSiam.make_projector(config, global_bn=global_bn)
        return type(projector)(**{**projector.get_config(), "output_norm": "none"})


@pytest.fixture
def trained(make_method, monkeypatch, fit_digits):
    """A function that trains a class, with these changes, on the digits for 200 steps."""

    def run(cls, **changes):
        monkeypatch.setitem(METHODS, "simsiam", type("SimSiam", (cls,), changes))
        method = make_method(
            "simsiam", config=TINY, classes=0, optimizer=lambda: SGD(0.05, momentum=0.9)
        )
        return fit_digits(method, 200)

    return run


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_it_collapses_without_stop_gradient_or_predictor_and_only_then(trained):
    ideal = TINY.proj_out_dim**-0.5
    real = trained(Unnormalised)
    assert real["embedding_std"] > 0.5 * ideal  # 0.76 was seen
    assert real["loss"] > -0.95
    for missing in ("stops_gradient", "predicts"):
        found = trained(Unnormalised, **{missing: False})
        assert found["embedding_std"] < 0.15 * ideal, missing  # 0.07 and 0.05
        assert found["loss"] < -0.99, missing


def test_behind_a_batch_norm_the_collapse_is_one_direction(trained):
    real, broken = trained(Changed), trained(Changed, stops_gradient=False)
    assert min(real["embedding_std"], broken["embedding_std"]) > 0.5 * TINY.proj_out_dim**-0.5
    assert real["effective_channels"] > 2  # 2.7 was seen
    assert broken["effective_channels"] < 1.3  # 1.03
