"""DenseCL against its equations, its two queues, and MoCo, of which it is a superset."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.errors import UserError
from tfcontrast.methods import DenseCL, DenseCLConfig, MoCoConfig, Plan
from tfcontrast.models import VisionTransformer
from tfcontrast.train import state
from tfcontrast.train.options import make_config

SMALL = {"queue_size": 24, "proj_hidden_dim": 8, "proj_out_dim": 5, "ema_decay": 0.9}


@pytest.fixture
def densecl(make_method):
    def make(**options):
        config = DenseCLConfig(**{**SMALL, **options})
        return make_method("densecl", config=config, classes=0)

    return make


@pytest.fixture
def batch(batches):
    return next(iter(batches(2)))


def arrays(layer):
    return {name: v.numpy().copy() for name, v in state.named_variables(layer, "it")}


def run(method, batch, training=True):
    return {
        "step": method.current_step(),
        **method.targets(batch["views"], training=training),
        **method(batch["views"], training=training),
    }


def numpy_info_nce(queries, keys, queue, temperature):
    """The mean over rows of -log softmax([q.k, q.queue] / t)[0], in float64."""
    unit = [rows / np.linalg.norm(rows, axis=-1, keepdims=True) for rows in (queries, keys)]
    queries, keys = (rows.astype(np.float64) for rows in unit)
    logits = np.concatenate([(queries * keys).sum(1, keepdims=True), queries @ queue.T], 1)
    logits /= temperature
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[:, 0])


def made_outputs(seed=0, images=3, locations=4, channels=6, dim=5):
    """What the networks could have returned; keys' locations are shuffled and changed queries'."""
    rng = np.random.default_rng(seed)
    query_map = rng.normal(size=[images, locations, channels])
    order = np.stack([rng.permutation(locations) for _ in range(images)])
    key_map = np.take_along_axis(query_map, order[..., None], 1)
    outputs = {
        "features": rng.normal(size=[images, channels]),
        "queries": rng.normal(size=[images, dim]),
        "keys": rng.normal(size=[images, dim]),
        "query_map": query_map,
        "key_map": key_map + 0.01 * rng.normal(size=key_map.shape),
        "query_grid": rng.normal(size=[images, locations, dim]),
        "key_grid": rng.normal(size=[images, locations, dim]),
    }
    outputs = {name: tf.constant(value, tf.float32) for name, value in outputs.items()}
    return {**outputs, "step": tf.constant(0, tf.int64)}, np.argsort(order, 1)


class Maps(keras.Model):
    """Stands for a backbone where none is run."""

    feature_dim = 6

    def endpoints(self, images, training=False):
        return {}

    def get_config(self):
        return {}


def made_method(**options):
    return DenseCL(Maps(), DenseCLConfig(**{**SMALL, **options}))


@pytest.mark.parametrize("dense_weight", [0.5, 0.2])
def test_the_loss_mixes_both_equations(dense_weight):
    method = made_method(dense_weight=dense_weight)
    outputs, matches = made_outputs()
    found = method.compute_losses(outputs, {})
    assert found.keys() == set(method.metric_names)
    values = {name: value.numpy() for name, value in outputs.items()}
    whole = numpy_info_nce(values["queries"], values["keys"], method.queue.read().numpy(), 0.2)
    keys = np.take_along_axis(values["key_grid"], matches[..., None], 1)
    rows = (values["query_grid"].reshape(12, 5), keys.reshape(12, 5))  # one per location
    dense = numpy_info_nce(*rows, method.dense_queue.read().numpy(), 0.2)
    assert float(found["global_loss"]) == pytest.approx(whole, rel=1e-5)
    assert float(found["dense_loss"]) == pytest.approx(dense, rel=1e-5)
    expected = (1 - dense_weight) * whole + dense_weight * dense
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-5)
    assert abs(whole - dense) > 0.01


def test_the_order_of_the_keys_locations_is_of_no_matter():
    method = made_method()
    outputs, _ = made_outputs()
    expected = method.compute_losses(outputs, {})
    turned = {name: tf.reverse(outputs[name], [1]) for name in ("key_map", "key_grid")}
    found = method.compute_losses({**outputs, **turned}, {})
    assert float(found["dense_loss"]) == pytest.approx(float(expected["dense_loss"]), rel=1e-6)
    # With the grid alone it is: locations are matched by the maps.
    found = method.compute_losses({**outputs, "key_grid": turned["key_grid"]}, {})
    assert abs(float(found["dense_loss"]) - float(expected["dense_loss"])) > 0.01


def test_gradients_reach_the_queries_and_grid_only():
    method, (outputs, _) = made_method(), made_outputs()
    names = ["queries", "query_grid", "keys", "key_grid", "query_map", "key_map"]
    with tf.GradientTape() as tape:
        tape.watch([outputs[name] for name in names])
        loss = method.compute_losses(outputs, {})["loss"]
    queries, grid, *others = tape.gradient(loss, [outputs[name] for name in names])
    assert np.abs(queries).max() > 1e-3
    assert np.abs(grid).max() > 1e-3
    assert others == [None] * 4


def test_the_dense_loss_starts_at_its_step():
    method, (outputs, _) = made_method(dense_start_step=1000), made_outputs()
    for step, weight in ((0, 0), (999, 0), (1000, 0.5), (5000, 0.5)):
        found = method.compute_losses({**outputs, "step": tf.constant(step, tf.int64)}, {})
        both = (float(found["global_loss"]), float(found["dense_loss"]))
        assert float(found["loss"]) == pytest.approx((1 - weight) * both[0] + weight * both[1])


def test_a_collapsed_encoder_is_stuck_at_the_log_of_all_candidates():
    method, (outputs, _) = made_method(), made_outputs()
    same = tf.ones([24, 5]) / math.sqrt(5)
    method.queue.push(same), method.dense_queue.push(same)
    kinds = {name: tf.ones_like(value) for name, value in outputs.items() if name != "step"}
    found = method.compute_losses({**outputs, **kinds}, {})
    for name in ("loss", "global_loss", "dense_loss"):
        assert float(found[name]) == pytest.approx(math.log(25), rel=1e-6)
    assert method.stuck_loss(12) == math.log(25)
    assert float(found["contrastive_accuracy"]) == float(found["dense_accuracy"]) == 0


def test_without_its_dense_part_it_is_moco(make_method, densecl, fit):
    dense = densecl(dense_weight=0.0)
    plain = make_method(
        "moco", config=MoCoConfig(**SMALL, num_proj_layers=2, temperature=0.2), classes=0
    )
    for name in ("backbone", "target_backbone", "projector", "target_projector", "queue"):
        ours, theirs = getattr(plain, name), getattr(dense, name)
        for mine, other in zip(ours.variables, theirs.variables, strict=True):
            mine.assign(other)
    fit(dense, 4), fit(plain, 4)
    for name in ("backbone", "target_backbone", "projector", "target_projector", "queue"):
        expected, found = arrays(getattr(plain, name)), arrays(getattr(dense, name))
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-6, err_msg=key)


def test_with_the_dense_part_alone_the_projector_stands_still(densecl, batch):
    method = densecl(dense_weight=1.0)
    before = [arrays(layer) for layer in (method.projector, method.dense_projector)]
    method.train_step(batch)
    after = [arrays(layer) for layer in (method.projector, method.dense_projector)]
    for name, value in before[0].items():
        np.testing.assert_array_equal(value, after[0][name])
    assert all(np.any(value != after[1][name]) for name, value in before[1].items())


def test_equal_views_match_each_location_with_itself(densecl, batch):
    method = densecl()
    same = {**batch, "views": (batch["views"][0],) * 2}
    outputs = run(method, same)
    count = outputs["query_map"].shape[1]
    assert outputs["query_map"].shape == outputs["key_map"].shape == (16, count, 6)
    assert outputs["query_grid"].shape == outputs["key_grid"].shape == (16, count, 5)
    np.testing.assert_allclose(outputs["key_grid"], outputs["query_grid"], atol=1e-5)
    matches = losses.match_locations(outputs["query_map"], outputs["key_map"]).numpy()
    cosines = losses.unit_rows(outputs["query_map"])
    cosines = (cosines @ tf.transpose(cosines, [0, 2, 1])).numpy()
    # Where a ReLU leaves two locations with one direction, either may be taken.
    distinct = np.sum(cosines > 1 - 1e-4, 2) == 1
    assert distinct.sum() > 20
    assert np.all((matches == np.arange(count))[distinct])


def test_the_dense_rows_are_the_dense_head_at_every_location(densecl, batch):
    method = densecl()
    outputs = method(batch["views"])
    maps = method.backbone.endpoints(batch["views"][0])["group4"]
    for row, column in ((0, 0), (1, 0), (0, 1)):
        place = row * maps.shape[2] + column
        np.testing.assert_allclose(outputs["query_map"][:, place], maps[:, row, column], atol=1e-6)
        np.testing.assert_allclose(
            outputs["query_grid"][:, place], method.dense_projector(maps[:, row, column]), atol=1e-5
        )
    np.testing.assert_allclose(
        outputs["queries"], method.projector(method.embed(batch["views"][0])), atol=1e-5
    )


def test_each_queue_takes_one_row_an_image(densecl, batch):
    method, look = densecl(), densecl()
    outputs = run(look, batch)
    pooled = losses.unit_rows(tf.reduce_mean(outputs["key_grid"], 1))
    assert np.any(method.queue.read() != method.dense_queue.read())
    method.train_step(batch)
    np.testing.assert_allclose(
        method.queue.read()[:16], losses.unit_rows(outputs["keys"]), atol=1e-5
    )
    np.testing.assert_allclose(method.dense_queue.read()[:16], pooled, atol=1e-5)
    for queue in (method.queue, method.dense_queue):
        assert arrays(queue)["it/cursor"] == 16
    method.train_step(batch)
    for queue in (method.queue, method.dense_queue):
        assert arrays(queue)["it/cursor"] == 32 - 24


def test_all_three_copies_follow(densecl, batch):
    method = densecl(ema_decay=0.0)
    slow = {layer.name for layer in method.untrained_layers()}
    assert slow == {"target_backbone", "target_projector", "target_dense_projector"}
    method.train_step(batch)
    for name in slow:
        copy = getattr(method, name).trainable_variables
        source = getattr(method, name.removeprefix("target_")).trainable_variables
        for mine, theirs in zip(copy, source, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "backbone",
    [
        keras.Sequential([keras.layers.Flatten()]),
        VisionTransformer(image_size=8, patch_size=4, width=8, depth=1, num_heads=2),
    ],
    ids=["none", "vit"],
)
def test_a_backbone_without_maps_is_refused(backbone):
    message = (
        "^--method=densecl needs a backbone with feature maps, --backbone=resnet. Received: "
        f"{type(backbone).__name__}$"
    )
    with pytest.raises(UserError, match=message):
        DenseCL(backbone)


def test_a_queue_that_is_too_small_is_refused():
    with pytest.raises(UserError, match=r"^--queue_size must be at least the 32 keys of a step"):
        DenseCL(Maps(), DenseCLConfig(**SMALL), plan=Plan(batch_size=32))


def test_the_defaults_are_the_papers():
    config = make_config({"method": "densecl", "dataset": "imagenet2012"})
    assert dataclasses.asdict(config.method) == {
        "temperature": 0.2, "queue_size": 65536, "num_proj_layers": 2, "proj_hidden_dim": 0,
        "proj_out_dim": 128, "ema_decay": 0.999, "ema_schedule": "constant",
        "ema_statistics": "own", "shuffle_bn": True, "dense_weight": 0.5, "dense_start_step": 0,
    }  # fmt: skip
    optim = config.optim
    assert (optim.optimizer, optim.learning_rate, optim.weight_decay) == ("sgd", 0.03, 1e-4)
    assert (optim.learning_rate_schedule, optim.decay_all) == ("cosine", True)
    assert (config.train.train_batch_size, config.train.train_epochs) == (256, 200)
    assert (config.augment.augmentation, config.model.batch_norm_splits) == ("moco_v2", 8)
