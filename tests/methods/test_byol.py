import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import models
from tfcontrast.methods import BYOL, METHODS, BYOLConfig, Plan
from tfcontrast.models import BatchNorm

HEADS = {"proj_hidden_dim": 8, "proj_out_dim": 5, "pred_hidden_dim": 8}


def config_of(decay, **options):
    return BYOLConfig(**HEADS, ema_decay=decay, ema_schedule="constant", **options)


@pytest.fixture
def by_hand(tiny_backbone):
    """A method and outputs that stand in for its networks'."""
    method = BYOL(tiny_backbone(), BYOLConfig(**HEADS), plan=Plan(total_steps=10))

    def losses_of(predictions, targets, step=0):
        outputs = {
            "predictions": tf.constant(predictions, tf.float32),
            "targets": tf.constant(targets, tf.float32),
            "embeddings": tf.constant(predictions, tf.float32),
            "features": tf.constant(predictions, tf.float32),
            "step": tf.constant(step, tf.int64),
        }
        return method.compute_losses(outputs, {})

    return losses_of


def parts(method):
    """(online network, its slow copy), twice."""
    return (
        (method.backbone, method.target_backbone),
        (method.projector, method.target_projector),
    )


def trained(networks):
    return [v.numpy().copy() for network in networks for v in network.trainable_variables]


def statistics(network):
    layers = [layer for layer in network._flatten_layers() if isinstance(layer, BatchNorm)]
    assert layers
    return [v.numpy().copy() for layer in layers for v in layer.non_trainable_variables]


def online_and_target(method):
    return [trained(side) for side in zip(*parts(method), strict=True)]


def test_the_loss_is_both_directions(by_hand, golden_views):
    z1, z2, _ = golden_views
    both = tf.concat([z1, z2], 0)
    found = by_hand(both, both)
    assert tuple(found) == BYOL.metric_names
    # view 1 predicts view 2's target, and the reverse: each mean(2 - 2 cos) = .8283727228
    assert float(found["loss"]) == pytest.approx(2 * 0.8283727228, rel=1e-6)
    assert float(found["target_similarity"]) == pytest.approx(0.5858136386, rel=1e-6)
    crossed = by_hand(both, tf.concat([z2, z1], 0))
    assert float(crossed["loss"]) == pytest.approx(0, abs=1e-6)


def test_the_loss_lies_between_0_and_8(by_hand):
    rng = np.random.default_rng(0)
    p1, p2 = rng.normal(size=(2, 4, 5))
    same, swapped = np.concatenate([p1, p2]), np.concatenate([p2, p1])
    assert float(by_hand(same, 3 * swapped)["loss"]) == pytest.approx(0, abs=1e-6)
    assert float(by_hand(same, -0.2 * swapped)["loss"]) == pytest.approx(8, rel=1e-6)
    for _ in range(20):
        assert 0 < float(by_hand(same, rng.normal(size=(8, 5)))["loss"]) < 8


def test_the_decay_goes_from_its_start_to_1(by_hand):
    some = np.ones([4, 5])
    decays = [float(by_hand(some, some, step)["ema_decay"]) for step in (0, 5, 10)]
    assert decays == pytest.approx([0.996, 0.998, 1.0])


def test_the_defaults_are_the_papers():
    config = BYOLConfig()
    assert (config.proj_hidden_dim, config.proj_out_dim, config.pred_hidden_dim) == (
        4096,
        256,
        4096,
    )
    assert (config.ema_decay, config.ema_schedule, config.ema_statistics) == (
        0.996,
        "cosine",
        "own",
    )
    recipe = config.DEFAULTS["pretrain"]
    assert (recipe["learning_rate"], recipe["weight_decay"]) == (0.2, 1.5e-6)
    assert (recipe["train_epochs"], recipe["augmentation"]) == (1000, "byol")
    assert recipe["lars_variant"] == "byol"
    assert (BYOL.num_views, BYOL.needs_labels) == (2, False)


def test_the_heads_are_the_papers(make_method):
    method = make_method("byol")
    for head in (method.projector, method.predictor):
        first, last = head.dense_layers
        assert first.use_bias
        assert not last.use_bias
        assert head.norms[0] is not None
        assert head.norms[1] is None
    with pytest.raises(ValueError, match=r"needs plan=Plan\(total_steps=\.\.\.\)"):
        make_method("byol", plan=Plan())


def test_the_target_starts_as_a_copy(make_method):
    for network, copy in parts(make_method("byol")):
        assert len(network.variables) == len(copy.variables)
        for one, other in zip(network.variables, copy.variables, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one is not other


def test_the_target_is_the_moving_average_of_updated_weights(make_method, fit):
    method = make_method("byol")
    for step in (0, 1):
        _, before = online_and_target(method)
        logs = fit(method, 1)
        online, after = online_and_target(method)
        decay = 1 - 0.1 * (1 + np.cos(np.pi * step / 40)) / 2  # the plan has 40 steps
        assert logs["ema_decay"] == pytest.approx(decay, rel=1e-6)
        assert any(np.any(a != b) for a, b in zip(after, before, strict=True))
        for new, old, weight in zip(after, before, online, strict=True):
            np.testing.assert_allclose(
                new, decay * old + (1 - decay) * weight, rtol=2e-6, atol=1e-8
            )


def test_with_decay_1_the_target_keeps_its_weights_and_moves_its_statistics(make_method, fit):
    method = make_method("byol", config=config_of(1.0))
    _, before = online_and_target(method)
    seen = [statistics(copy) for _, copy in parts(method)]
    fit(method, 3)
    online, after = online_and_target(method)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    assert any(np.any(weight != old) for weight, old in zip(online, after, strict=True))
    for (network, copy), old in zip(parts(method), seen, strict=True):
        now = statistics(copy)
        assert all(np.any(a != b) for a, b in zip(old, now, strict=True))
        # of its own batches: not the online network's, whose weights have moved
        assert any(np.any(a != b) for a, b in zip(statistics(network), now, strict=True))


def test_with_decay_0_the_target_is_the_online_network(make_method, fit):
    method = make_method("byol", config=config_of(0.0))
    before, _ = online_and_target(method)
    fit(method, 2)
    online, target = online_and_target(method)
    assert any(np.any(a != b) for a, b in zip(before, online, strict=True))
    for one, other in zip(online, target, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_step_that_is_not_taken_moves_no_target(make_method):
    method = make_method("byol", config=config_of(0.5))
    method.backbone.trainable_variables[0].assign_add(
        tf.ones_like(method.backbone.trainable_variables[0])
    )
    outputs = {"step": tf.constant(0, tf.int64), "taken": tf.constant(False)}
    _, before = online_and_target(method)
    method.after_update(outputs, {})
    for old, new in zip(before, online_and_target(method)[1], strict=True):
        np.testing.assert_array_equal(old, new)
    method.after_update({**outputs, "taken": tf.constant(True)}, {})
    assert np.any(online_and_target(method)[1][0] != before[0])


def test_the_gradient_stops_at_the_target(make_method, batches):
    method = make_method("byol")
    views = next(iter(batches(2)))["views"]
    copies = [v for _, copy in parts(method) for v in copy.trainable_variables]
    values = [v.value for v in (*method.encoder_variables, *copies)]
    with tf.GradientTape() as tape:
        outputs = {"step": tf.constant(0, tf.int64), **method.targets(views, training=True)}
        outputs |= method(views, training=True)
        loss = method.compute_losses(outputs, {})["loss"]
    gradients = tape.gradient(loss, values)
    count = len(method.encoder_variables)
    assert all(np.any(gradient) for gradient in gradients[:count])
    assert gradients[count:] == [None] * len(copies)
    assert copies
    assert not {id(v) for v in copies} & {id(v) for v in method.encoder_variables}
    online = len(method.backbone.trainable_variables) + len(method.projector.trainable_variables)
    assert count == online + len(method.predictor.trainable_variables)


class WithoutPredictor(BYOL):
    """The online network itself must agree with the target."""

    def call(self, views, training=False):
        features = models.forward_views(self.backbone, views, training)
        embeddings = self.projector(features, training=training)
        return {"features": features, "embeddings": embeddings, "predictions": embeddings}


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "broken"])
def test_predictor_and_slow_copy_keep_it_from_collapse(make_method, fit, monkeypatch, whole):
    monkeypatch.setitem(METHODS, "byol", BYOL if whole else WithoutPredictor)
    config = BYOLConfig(**HEADS, ema_decay=0.9 if whole else 0.0, ema_schedule="constant")
    method = make_method(
        "byol", config=config, classes=0, optimizer=lambda: keras.optimizers.Adam(0.05)
    )
    assert fit(method, 1)["embedding_std"] > 0.3  # of at most 1 / sqrt(5) = 0.45
    fit(method, 120)
    end = fit(method, 1)["embedding_std"]
    assert end > 0.2 if whole else end < 0.05  # 0.36 and 0.02 were seen
