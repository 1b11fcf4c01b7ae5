"""Groups of the batch with statistics of their own, against NumPy, on 1, 2 and 4 replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import BatchNorm, ResNet, batch_norm, forward_views

CHANNELS, SPLITS = 5, 4
GAMMA = np.linspace(0.5, 1.5, CHANNELS)
BETA = np.linspace(-1.0, 1.0, CHANNELS)
SHAPES = {2: (16, CHANNELS), 4: (8, 3, 4, CHANNELS)}


def make_layer(**options):
    layer = BatchNorm(name="norm", splits=SPLITS, **options)
    layer.build((None, CHANNELS))
    layer.gamma.assign(GAMMA)
    layer.beta.assign(BETA)
    return layer


def inputs(rank):
    rng = np.random.default_rng(rank)
    x = rng.normal(size=SHAPES[rank]) * 3
    x += np.arange(len(x)).reshape([-1] + [1] * (rank - 1))  # the groups' means differ
    return x, rng.normal(size=SHAPES[rank])


def numpy_group(x, weights):
    """One group's outputs, gradients of sum(weights * y), mean and unbiased variance."""
    rows, dy = x.reshape(-1, CHANNELS), weights.reshape(-1, CHANNELS)
    mean, variance = rows.mean(0), rows.var(0)
    normal = (rows - mean) / np.sqrt(variance + 1e-5)
    slope = GAMMA / np.sqrt(variance + 1e-5)
    dx = slope * (dy - dy.mean(0) - normal * (dy * normal).mean(0))
    return {
        "y": (GAMMA * normal + BETA).reshape(x.shape), "dx": dx.reshape(x.shape),
        "dgamma": (dy * normal).sum(0), "dbeta": dy.sum(0),
        "mean": mean, "variance": rows.var(0, ddof=1),
    }  # fmt: skip


def expected_step(x, weights):
    pairs = zip(np.split(x, SPLITS), np.split(weights, SPLITS), strict=True)
    groups = [numpy_group(*pair) for pair in pairs]
    found = {name: [group[name] for group in groups] for name in groups[0]}
    return {
        "y": np.concatenate(found["y"]),
        "dx": np.concatenate(found["dx"]),
        "dgamma": sum(found["dgamma"]),
        "dbeta": sum(found["dbeta"]),
        "moving_mean": 0.1 * np.mean(found["mean"], 0),
        "moving_variance": 0.9 + 0.1 * np.mean(found["variance"], 0),
    }


def step(layer, x, weights):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(y * weights)
    variables = [x, layer.gamma.value, layer.beta.value]
    dx, dgamma, dbeta = tape.gradient(loss, variables)
    return {"y": y, "dx": dx, "dgamma": dgamma, "dbeta": dbeta}


def run_step(strategy, layer, x, weights, **how):
    """A step with the batch dealt out; the parameters' gradients are summed as optimizers do."""
    replicas = strategy.num_replicas_in_sync
    blocks = [np.split(value.astype(layer.compute_dtype), replicas) for value in (x, weights)]
    shares = [
        strategy.experimental_distribute_values_from_function(
            lambda context, value=value: tf.constant(value[context.replica_id_in_sync_group])
        )
        for value in blocks
    ]
    run = tf.function(lambda a, b: strategy.run(step, args=(layer, a, b)), **how)
    local = {k: strategy.experimental_local_results(v) for k, v in run(*shares).items()}
    results = {k: np.concatenate(v) if k in ("y", "dx") else sum(v) for k, v in local.items()}
    for name in ("moving_mean", "moving_variance"):
        copies = strategy.experimental_local_results(getattr(layer, name).value)
        results[name] = copies[0].numpy()
        for copy in copies[1:]:
            np.testing.assert_array_equal(copy, copies[0])
    return results


def check(results, expected, tolerance):
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(results[name] / scale, value / scale, 0, tolerance, name)


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("synchronized", [True, False])
@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 2e-6), ("float64", 1e-12)])
def test_four_groups_are_the_same_on_any_replicas(
    strategy_of, replicas, rank, synchronized, policy, tolerance
):
    strategy = strategy_of(replicas)
    x, weights = inputs(rank)
    with strategy.scope():
        layer = make_layer(dtype=policy, synchronized=synchronized)
    check(run_step(strategy, layer, x, weights), expected_step(x, weights), tolerance)


def test_the_groups_differ_from_the_whole_batch():
    x, weights = inputs(4)
    whole = make_layer()
    whole.splits = 1
    found = step(whole, tf.constant(x, tf.float32), tf.constant(weights, tf.float32))
    assert np.abs(found["y"] - expected_step(x, weights)["y"]).max() > 0.5


def test_compiles_with_xla():
    x, weights = inputs(4)
    layer = make_layer()
    results = run_step(tf.distribute.get_strategy(), layer, x, weights, jit_compile=True)
    check(results, expected_step(x, weights), 2e-6)


def test_bfloat16_is_close():
    x, _ = inputs(4)
    y = make_layer(dtype="mixed_bfloat16")(tf.cast(x, tf.bfloat16), training=True)
    assert y.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected_step(x, x)["y"], atol=0.05)


def test_only_the_moving_statistics_are_communicated(strategy_of, monkeypatch):
    shapes = []

    def counted(tensor):
        shapes.append(tuple(tensor.shape))
        return all_sum(tensor)

    all_sum = batch_norm.all_sum
    monkeypatch.setattr(batch_norm, "all_sum", counted)
    strategy = strategy_of(2)
    with strategy.scope():
        layer = make_layer()
    run_step(strategy, layer, *inputs(4))
    assert shapes == [(2, CHANNELS)] * 2  # traced once per replica


def test_inference_knows_no_groups():
    x = tf.constant(inputs(2)[0][:3], tf.float32)
    layer = make_layer()
    np.testing.assert_allclose(layer(x), x / np.sqrt(1 + 1e-5) * GAMMA + BETA, rtol=1e-5)


def test_a_group_that_is_not_finite_leaves_the_moving_statistics():
    x = inputs(2)[0].astype(np.float32)
    x[-1] = np.nan
    layer = make_layer()
    y = layer(tf.constant(x), training=True).numpy()
    assert np.isfinite(y[:12]).all()
    assert np.isnan(y[12:]).all()
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(CHANNELS))
    np.testing.assert_array_equal(layer.moving_variance, np.ones(CHANNELS))


def test_what_does_not_divide_is_refused(strategy_of):
    layer = make_layer()
    with pytest.raises(ValueError, match=r"divide the batch.* Received: splits=4 with 1 replicas"):
        layer(tf.ones([6, CHANNELS]), training=True)
    strategy = strategy_of(4)
    with strategy.scope():
        odd = BatchNorm(name="norm", splits=2)
        odd.build((None, CHANNELS))
    with pytest.raises(ValueError, match=r"multiple of the replicas.* Received: splits=2 with 4"):
        strategy.run(lambda: odd(tf.ones([6, CHANNELS]), training=True))
    with pytest.raises(ValueError, match=r"splits must be positive\. Received: 0"):
        BatchNorm(name="norm", splits=0)


def test_a_config_round_trip_keeps_them():
    copy = keras.layers.deserialize(keras.layers.serialize(make_layer()))
    assert copy.splits == SPLITS


def small(**options):
    return ResNet(depth=10, width_multiplier=0.1, stem="cifar_stride2", name="small", **options)


def test_every_norm_of_a_network_has_them():
    network = small(batch_norm_splits=SPLITS)
    norms = [layer for layer in network._flatten_layers() if isinstance(layer, BatchNorm)]
    assert len(norms) > 8
    assert {norm.splits for norm in norms} == {SPLITS}
    assert ResNet.from_config(network.get_config()).batch_norm_splits == SPLITS


def test_a_network_sees_its_groups_alone_and_each_view_alone():
    images = tf.random.stateless_uniform([32, 16, 16, 3], [0, 1])
    grouped, whole = small(batch_norm_splits=SPLITS), small()
    grouped(images), whole(images)
    whole.set_weights(grouped.get_weights())
    expected = tf.concat([whole(images[i : i + 4], training=True) for i in range(0, 32, 4)], 0)
    found = forward_views(grouped, tf.split(images, 2), training=True)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    # One batch of both views has groups of eight rows.
    assert np.abs(grouped(images, training=True) - expected).max() > 0.1
