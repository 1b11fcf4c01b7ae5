"""MoCo v3: its loss, heads and copies; what learns; and that its slow copy earns its place."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.augment import RECIPES
from tfcontrast.methods import MoCoV3, MoCoV3Config, Plan
from tfcontrast.models import VisionTransformer, cosine_ema_decay
from tfcontrast.train import state

SMALL = {"proj_hidden_dim": 8, "proj_out_dim": 6, "pred_hidden_dim": 8}
ROW, COLUMN = np.arange(4)[:, None], np.arange(6)[None]
Z1 = np.sin(1 + 0.7 * ROW + 1.3 * COLUMN + 0.11 * ROW * COLUMN)
Z2 = np.cos(0.5 + 0.9 * ROW + 0.8 * COLUMN + 0.07 * ROW * COLUMN)


def unbuilt(backbone, **options):
    return MoCoV3(backbone, MoCoV3Config(**{**SMALL, **options}), plan=Plan(total_steps=10))


def compute(method, queries, keys):
    outputs = {
        "features": tf.constant(np.eye(2 * len(queries[0])), tf.float32),
        "queries": tf.constant(np.concatenate(queries), tf.float32),
        "keys": tf.constant(np.concatenate(keys), tf.float32),
        "step": tf.constant(3, tf.int64),
    }
    return {name: float(v) for name, v in method.compute_losses(outputs, {}).items()}


def test_the_loss_is_the_golden_value(tiny_backbone):
    # 2 T (CE(a, b) + CE(b, a)) in NumPy's float64 from the formula, a and b the unit rows
    method = unbuilt(tiny_backbone(), temperature=0.2)
    found = compute(method, (Z1, Z2), (Z1, Z2))
    assert found["loss"] == pytest.approx(0.2714372731, abs=1e-6)


def test_the_query_of_a_view_looks_for_the_key_of_the_other(tiny_backbone):
    rng = np.random.default_rng(2)
    q1, q2, k1, k2 = rng.normal(size=[4, 12, 6]) + 0.7 * rng.normal(size=[12, 6])
    losses, hits = [], []
    for queries, keys in ((q1, k2), (q2, k1)):
        q, k = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (queries, keys))
        logits = q @ k.T / 0.5
        losses.append(np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits)))
        hits.append(np.mean(logits.argmax(1) == np.arange(12)))
    found = compute(unbuilt(tiny_backbone(), temperature=0.5), (q1, q2), (k1, k2))
    assert found["loss"] == pytest.approx(2 * 0.5 * sum(losses), rel=1e-5)
    assert found["contrastive_accuracy"] == pytest.approx(np.mean(hits), rel=1e-5)
    assert 0 < hits[0] != hits[1] < 1


def test_metrics_of_a_step(tiny_backbone):
    method = unbuilt(tiny_backbone(), ema_decay=0.9)
    found = compute(method, (Z1, Z2), (Z1, Z2))
    assert tuple(found) == MoCoV3.metric_names
    assert found["feature_std"] == pytest.approx(np.sqrt(7) / 8, rel=1e-5)
    # the average that the released code takes in the next step, before its key pass
    assert found["ema_decay"] == pytest.approx(float(cosine_ema_decay(0.9, 4, 10)))


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_a_collapsed_encoders_loss_is_the_stuck_one(tiny_backbone, temperature):
    method = unbuilt(tiny_backbone(), temperature=temperature)
    ones = np.ones([12, 6])
    found = compute(method, (ones, ones), (ones, ones))
    assert found["loss"] == pytest.approx(method.stuck_loss(12), rel=1e-5)
    assert method.stuck_loss(12) == pytest.approx(4 * temperature * np.log(12))
    assert found["contrastive_accuracy"] == 0


def test_defaults_are_the_released_codes():
    config = MoCoV3Config()
    assert (config.temperature, config.ema_decay, config.ema_schedule) == (1.0, 0.99, "cosine")
    assert (config.num_proj_layers, config.pred_batch_norm) == (2, False)
    assert (config.proj_hidden_dim, config.proj_out_dim, config.pred_hidden_dim) == (
        4096,
        256,
        4096,
    )
    assert MoCoV3Config.DEFAULTS["pretrain"]["augmentation"] in RECIPES


@pytest.mark.parametrize(
    ("options", "projector", "predictor"),
    [
        # released code: projector 2 layers, predictor's end bare (ResNet); 3 layers, normalised
        ({}, ["affine", "plain"], ["affine", "none"]),
        (
            {"num_proj_layers": 3, "pred_batch_norm": True},
            ["affine", "affine", "plain"],
            ["affine", "plain"],
        ),
    ],
)
def test_the_heads_are_the_released_codes(tiny_backbone, options, projector, predictor):
    method = unbuilt(tiny_backbone(), **options)
    for head, expected in ((method.projector, projector), (method.predictor, predictor)):
        head.build((None, 6))
        found = [
            "none" if norm is None else "affine" if norm.scale and norm.center else "plain"
            for norm in head.norms
        ]
        assert found == expected
        assert not any(dense.use_bias for dense in head.dense_layers)
    copied = method.target_projector.get_config()
    assert {**copied, "name": "projector"} == method.projector.get_config()
    assert method.projector.embedding_dim == 6


def trained(make_method, fit, steps=1, **options):
    method = make_method("moco_v3", optimizer="sgd", **options)
    start = {k: v.copy() for k, v in state.values(state.model_state(method)).items()}
    fit(method, steps)
    return method, start, state.values(state.model_state(method))


def test_the_copies_follow_by_the_cosine_and_keep_their_own_statistics(make_method, fit):
    _, start, end = trained(make_method, fit)
    decay = float(cosine_ema_decay(0.9, 1, 40))
    copies = [name for name in end if name.startswith("target_")]
    assert {name.split("/")[0] for name in copies} == {"target_backbone", "target_projector"}
    statistics = 0
    for name in copies:
        followed = name.removeprefix("target_")
        np.testing.assert_array_equal(start[name], start[followed], err_msg=name)
        if "moving_" in name:
            statistics += 1
            # the copy saw the same views with equal weights
            np.testing.assert_allclose(end[name], end[followed], rtol=1e-5, atol=1e-7)
            assert np.any(end[name] != start[name])
        else:
            expected = decay * start[name] + (1 - decay) * end[followed]
            np.testing.assert_allclose(end[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)
            assert np.any(end[name] != start[name]), name
    assert statistics == 8
    assert not any(name.startswith("target_predictor") for name in end)


def test_a_skipped_step_moves_no_copy(make_method, batches):
    method = make_method("moco_v3", classes=0, optimizer="sgd")
    batch = next(iter(batches(2)))
    before = {k: v.copy() for k, v in state.values(state.model_state(method)).items()}
    outputs = {"step": tf.constant(0, tf.int64), "taken": tf.constant(False)}
    for variable in method.backbone.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    method.after_update(outputs, batch)
    for name, value in state.values(state.model_state(method)).items():
        if name.startswith("target_"):
            np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_gradients_reach_the_queries_side_only(make_method, batches):
    method = make_method("moco_v3", classes=0)
    batch = next(iter(batches(2)))
    with tf.GradientTape() as tape:
        outputs = {
            **method.targets(batch["views"], training=True),
            **method(batch["views"], training=True),
            "step": tf.constant(0, tf.int64),
        }
        tape.watch(outputs["keys"])
        loss = method.compute_losses(outputs, batch)["loss"]
    learned = [method.backbone, method.projector, method.predictor]
    ours = [v.value for layer in learned for v in layer.trainable_variables]
    copies = [v.value for layer in method.untrained_layers() for v in layer.trainable_variables]
    gradients = tape.gradient(loss, [*ours, *copies, outputs["keys"]])
    assert all(np.any(g) for g in gradients[: len(ours)])
    assert all(g is None for g in gradients[len(ours) :])
    assert {id(v.value) for v in method.encoder_variables} == {id(v) for v in ours}


def test_batch_norm_sees_one_view_at_a_time(make_method, batches):
    method = make_method("moco_v3", classes=0)
    first, second = next(iter(batches(2)))["views"]
    together = method((first, second), training=True)["queries"]
    twice = method((first, first), training=True)["queries"]
    np.testing.assert_allclose(together[:16], twice[:16], rtol=1e-6)
    np.testing.assert_allclose(twice[:16], twice[16:], rtol=1e-6)
    copied = method.targets((first, second), training=True)["keys"]
    np.testing.assert_allclose(
        copied[16:], method.targets((second, second), training=True)["keys"][:16], rtol=1e-5
    )


def transformer(dtype="float32"):
    return VisionTransformer(
        width=12, depth=2, num_heads=3, patch_size=4, image_size=8, dtype=dtype, name="backbone",
        position_embedding="sincos", initialization="moco_v3", freeze_patch_embedding=True,
        drop_path_rate=0.4,
    )  # fmt: skip


def test_a_vision_transformer_learns_all_but_its_frozen_projection(make_method, fit):
    config = MoCoV3Config(**SMALL, num_proj_layers=3, pred_batch_norm=True, temperature=0.2)
    method, start, end = trained(make_method, fit, 2, backbone=transformer, config=config)
    still = {name for name in end if np.array_equal(start[name], end[name])}
    for part in ("kernel", "bias"):
        assert f"backbone/embedding/projection/{part}" in still
        # the average of equal weights rounds in its last bit
        name = f"target_backbone/embedding/projection/{part}"
        np.testing.assert_allclose(end[name], start[name], rtol=1e-6)
        still -= {name, f"backbone/embedding/projection/{part}"}
    assert not still
    assert len(method.backbone.trainable_variables) == len(method.backbone.variables) - 2


def test_the_two_views_drop_branches_of_their_own_and_the_copies_none(make_method, batches):
    method = make_method("moco_v3", classes=0, backbone=transformer)
    first, _ = next(iter(batches(2)))["views"]
    one, other = tf.split(method((first, first), training=True)["features"], 2)
    assert np.any(np.abs(one - other) > 1e-4, axis=1).mean() > 0.3
    again, _ = tf.split(method((first, first), training=True)["features"], 2)
    np.testing.assert_array_equal(one, again)
    method.optimizer.iterations.assign_add(1)
    later, _ = tf.split(method((first, first), training=True)["features"], 2)
    assert np.any(np.abs(one - later) > 1e-4)
    keys = method.targets((first, first), training=True)["keys"]
    np.testing.assert_allclose(keys[:16], keys[16:], rtol=1e-4, atol=1e-5)
