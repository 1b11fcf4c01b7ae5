"""MoCo against its equation, and its update rules."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.errors import UserError
from tfcontrast.methods import MoCo, MoCoConfig, Plan
from tfcontrast.train import state
from tfcontrast.train.options import make_config

SMALL = {"queue_size": 24, "proj_out_dim": 5, "temperature": 0.2, "ema_decay": 0.9}


@pytest.fixture
def moco(make_method):
    def make(seed=1, **options):
        how = {name: options.pop(name) for name in ("plan", "strategy") if name in options}
        config = MoCoConfig(**{**SMALL, **options})
        return make_method("moco", config=config, seed=seed, classes=0, **how)

    return make


@pytest.fixture
def batch_of(batches):
    return lambda method, seed=0: next(iter(batches(method.num_views, seed=seed)))


def arrays(layer):
    return {name: v.numpy().copy() for name, v in state.named_variables(layer, "it")}


def golden_rows():
    """[4, 6] queries, [4, 6] keys and [5, 6] rows of a queue."""
    i, j = np.arange(4)[:, None], np.arange(6)
    queue = np.sin(0.3 + 0.5 * np.arange(5)[:, None] + 1.7 * j)
    return (
        np.sin(1 + 0.7 * i + 1.3 * j + 0.11 * i * j),
        np.cos(0.5 + 0.9 * i + 0.8 * j + 0.07 * i * j),
        queue / np.linalg.norm(queue, axis=1, keepdims=True),
    )


def golden_method(**options):
    method = MoCo(keras.Model(), MoCoConfig(queue_size=5, proj_out_dim=6, **options))
    queries, keys, queue = golden_rows()
    method.queue.push(tf.constant(queue, tf.float32))
    outputs = {
        "queries": tf.constant(queries, tf.float32),
        "keys": tf.constant(keys, tf.float32),
        "features": tf.ones([4, 3]),
        "step": tf.constant(0, tf.int64),
    }
    return method, outputs


@pytest.mark.parametrize(("temperature", "golden"), [(0.07, 4.2700134969), (0.2, 2.1351705443)])
def test_the_loss_is_the_golden_value(temperature, golden):
    # The cross entropy of [q.k, q.queue] / t with target 0, in NumPy in float64.
    method, outputs = golden_method(temperature=temperature)
    found = method.compute_losses(outputs, {})
    assert found.keys() == set(method.metric_names)
    assert float(found["loss"]) == pytest.approx(golden, rel=1e-5)
    assert float(found["contrastive_accuracy"]) == 0  # a row of the queue is nearer than each key
    easy = method.compute_losses({**outputs, "keys": outputs["queries"]}, {})
    assert float(easy["contrastive_accuracy"]) == 1
    assert float(found["queue_age"]) == 0
    assert float(found["ema_decay"]) == pytest.approx(0.999)


def test_sum_is_twice_mean():
    for scale, symmetric_loss in ((1, "mean"), (2, "sum")):
        method, outputs = golden_method(temperature=0.2, symmetric_loss=symmetric_loss)
        loss = float(method.compute_losses(outputs, {})["loss"])
        assert loss == pytest.approx(scale * 2.1351705443, rel=1e-5)


@pytest.mark.parametrize("symmetric_loss", ["none", "sum", "mean"])
def test_a_collapsed_encoder_is_stuck_at_the_log_of_all_candidates(symmetric_loss):
    method, outputs = golden_method(symmetric_loss=symmetric_loss)
    same = tf.ones([5, 6]) / math.sqrt(6)
    method.queue.push(same)
    collapsed = {**outputs, "queries": 3 * same[:4], "keys": 2 * same[:4]}
    found = method.compute_losses(collapsed, {})
    assert float(found["loss"]) == pytest.approx(method.stuck_loss(12), rel=1e-6)
    assert method.stuck_loss(12) == (2 if symmetric_loss == "sum" else 1) * math.log(6)
    assert float(found["embedding_std"]) == pytest.approx(0, abs=1e-6)


def test_only_the_queries_have_gradients():
    method, outputs = golden_method()
    with tf.GradientTape() as tape:
        tape.watch([outputs["queries"], outputs["keys"], method.queue.variables[0].value])
        loss = method.compute_losses(outputs, {})["loss"]
    rows = [outputs["queries"], outputs["keys"], method.queue.variables[0].value]
    queries, keys, queue = tape.gradient(loss, rows)
    assert keys is None
    assert queue is None
    assert np.abs(queries).max() > 0.1


def test_the_key_networks_get_no_gradient_and_are_not_trained(moco, batch_of):
    method = moco()
    batch = batch_of(method)
    with tf.GradientTape() as tape:
        outputs = {
            "step": method.current_step(),
            **method.targets(batch["views"], training=True),
            **method(batch["views"], training=True),
        }
        loss = method.compute_losses(outputs, batch)["loss"]
    online = [*method.backbone.trainable_variables, *method.projector.trainable_variables]
    slow = [v for layer in method.untrained_layers() for v in layer.trainable_variables]
    assert len(slow) == len(online)
    gradients = tape.gradient(loss, [v.value for v in (*online, *slow)])
    assert all(np.any(gradient) for gradient in gradients[: len(online)])
    assert gradients[len(online) :] == [None] * len(slow)
    assert {id(v) for v in method.encoder_variables} == {id(v) for v in online}


def test_the_queue_holds_the_keys_of_the_steps_before(moco, batch_of):
    method = moco()
    rows, pushed = method.queue.read().numpy(), []
    for step in range(4):
        batch = batch_of(method, seed=step)
        look = moco()  # another one at the same place, to see the keys without moving statistics
        for mine, theirs in zip(look.variables, method.variables, strict=True):
            mine.assign(theirs)
        look.optimizer.iterations.assign(step)
        keys = look.targets(batch["views"], training=True)["keys"]
        pushed.append(losses.unit_rows(keys).numpy())
        before = arrays(method.queue)
        method.train_step(batch)
        places = (16 * step + np.arange(16)) % 24
        rows[places] = pushed[-1]
        np.testing.assert_allclose(method.queue.read(), rows, atol=1e-5)
        after = arrays(method.queue)
        assert after["it/cursor"] == (16 * (step + 1)) % 24
        assert after["it/pushes"] == before["it/pushes"] + 1 == step + 1
    assert np.abs(pushed[0] - pushed[1]).max() > 0.01


def test_both_views_keys_join_the_queue_of_a_symmetric_loss(moco, batch_of):
    method, look = (moco(symmetric_loss="mean", queue_size=40) for _ in range(2))
    batch = batch_of(method)
    keys = look.targets(batch["views"], training=True)["keys"]
    queries = look(batch["views"], training=True)["queries"]
    # Equal networks: row i of the keys is the other view of row i of the queries.
    assert keys.shape == queries.shape == (32, 5)
    np.testing.assert_allclose(tf.roll(keys, 16, 0), queries, atol=1e-5)
    method.train_step(batch)
    np.testing.assert_allclose(method.queue.read()[:32], losses.unit_rows(keys), atol=1e-5)


def test_one_direction_asks_with_the_first_view_only(moco, batch_of):
    method = moco()
    views = batch_of(method)["views"]
    outputs = method(views)
    assert outputs["features"].shape == (16, 6)
    np.testing.assert_allclose(outputs["features"], method.embed(views[0]), atol=1e-6)
    np.testing.assert_allclose(
        method.targets(views)["keys"], method.projector(method.embed(views[1])), atol=1e-5
    )


@pytest.mark.parametrize("ema_decay", [0.0, 0.9, 1.0])
def test_the_key_networks_follow_by_the_decay(moco, batch_of, ema_decay):
    method = moco(ema_decay=ema_decay)
    pairs = [
        (method.backbone, method.target_backbone), (method.projector, method.target_projector)
    ]  # fmt: skip
    before = [arrays(slow) for _, slow in pairs]
    for (network, _), copy in zip(pairs, before, strict=True):  # they start equal
        for name, value in arrays(network).items():
            np.testing.assert_array_equal(value, copy[name], err_msg=name)
    method.train_step(batch_of(method))
    for (network, slow), old in zip(pairs, before, strict=True):
        now, copy = arrays(network), arrays(slow)
        for name, value in now.items():
            if "moving_" in name:  # of its own batches, also when nothing else moves
                assert np.any(copy[name] != old[name])
                assert np.any(copy[name] != value)
                continue
            assert np.any(value != old[name]), name
            expected = ema_decay * old[name] + (1 - ema_decay) * value
            if ema_decay in (0, 1):
                np.testing.assert_array_equal(copy[name], expected, err_msg=name)
            np.testing.assert_allclose(copy[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("replicas", [1, 2])
def test_weights_that_overflow_leave_no_trace_but_in_batch_norm(
    make_method, batches, strategy_of, replicas
):
    """Images that are not finite: test_bad_batches.py."""
    config = MoCoConfig(**SMALL)
    method = make_method(
        "moco", config=config, optimizer="sgd", classes=0, strategy=strategy_of(replicas)
    )
    kernel = method.projector.dense_layers[0].kernel
    kernel.assign(tf.fill(kernel.shape, 3e38))  # queries overflow, keys do not
    before = arrays(method)
    method.fit(batches(2), steps_per_epoch=1, shuffle=False, verbose=0)
    after = arrays(method)
    assert int(tf.convert_to_tensor(method.optimizer.bad_steps)) == 1
    moved = {n for n in before if not np.array_equal(before[n], after[n], equal_nan=True)}
    # With finite images batch norm has seen them; everything else is as before.
    assert not {n for n in moved if not n.startswith("it/metrics") and "moving_" not in n}


def test_the_defaults_are_the_papers():
    config = make_config({"method": "moco", "dataset": "imagenet2012"})
    method = config.method
    assert dataclasses.asdict(method) == {
        "temperature": 0.07, "queue_size": 65536, "num_proj_layers": 1, "proj_hidden_dim": 0,
        "proj_out_dim": 128, "ema_decay": 0.999, "ema_schedule": "constant",
        "ema_statistics": "own", "shuffle_bn": True, "symmetric_loss": "none",
    }  # fmt: skip
    found = {name: getattr(config.optim, name) for name in (
        "optimizer", "learning_rate", "learning_rate_scaling", "momentum", "weight_decay",
        "decay_all", "learning_rate_schedule", "decay_epochs", "decay_rate", "warmup_epochs",
    )}  # fmt: skip
    assert found == {
        "optimizer": "sgd", "learning_rate": 0.03, "learning_rate_scaling": "linear",
        "momentum": 0.9, "weight_decay": 1e-4, "decay_all": True,
        "learning_rate_schedule": "step", "decay_epochs": "120,160", "decay_rate": 0.1,
        "warmup_epochs": 0.0,
    }  # fmt: skip
    assert (config.train.train_batch_size, config.train.train_epochs) == (256, 200)
    assert (config.augment.augmentation, config.model.batch_norm_splits) == ("moco_v1", 8)


def test_a_queue_that_is_too_small_is_refused():
    options = {"symmetric_loss": "sum", "queue_size": 31}
    with pytest.raises(UserError, match=r"^--queue_size must be at least the 32 keys of a step"):
        MoCo(keras.Model(), MoCoConfig(**options), plan=Plan(batch_size=16))
    MoCo(keras.Model(), MoCoConfig(queue_size=16), plan=Plan(batch_size=16))
