"""Batch norm against Keras's layer, NumPy in float64, and itself on 1, 2 and 4 replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import BatchNorm, batch_norm

CHANNELS = 5
GAMMA = np.linspace(0.5, 1.5, CHANNELS)
BETA = np.linspace(-1.0, 1.0, CHANNELS)
SHAPES = {2: (16, CHANNELS), 4: (8, 3, 4, CHANNELS)}


def _layer(**kwargs):
    layer = BatchNorm(name="norm", **kwargs)
    layer.build((None,) * 3 + (CHANNELS,))
    layer.gamma.assign(GAMMA)
    layer.beta.assign(BETA)
    return layer


def _inputs(rank, offset=2.0):
    rng = np.random.default_rng(rank)
    shape = SHAPES[rank]
    return rng.normal(size=shape) * 3 + offset, rng.normal(size=shape)


def _numpy_step(x, weights):
    """Outputs, gradients of sum(weights * y) and new moving statistics, in float64."""
    flat = x.reshape(-1, CHANNELS)
    dy = weights.reshape(-1, CHANNELS)
    mean, variance = flat.mean(0), flat.var(0)
    normalized = (flat - mean) / np.sqrt(variance + 1e-5)
    slope = GAMMA / np.sqrt(variance + 1e-5)
    dx = slope * (dy - dy.mean(0) - normalized * (dy * normalized).mean(0))
    return {
        "y": (GAMMA * normalized + BETA).reshape(x.shape),
        "dx": dx.reshape(x.shape),
        "dgamma": (dy * normalized).sum(0),
        "dbeta": dy.sum(0),
        "moving_mean": 0.1 * mean,
        "moving_variance": 0.9 + 0.1 * flat.var(0, ddof=1),
    }


def _step(layer, x, weights):
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(y, weights.dtype) * weights)
    variables = [layer.gamma.value, layer.beta.value]
    dx, dgamma, dbeta = tape.gradient(loss, [x, *variables])
    return {"y": y, "dx": dx, "dgamma": dgamma, "dbeta": dbeta}


def _check(results, layer, expected, tolerance):
    results = {
        **results,
        "moving_mean": layer.moving_mean,
        "moving_variance": layer.moving_variance,
    }
    for name, value in expected.items():
        received = np.asarray(keras.ops.convert_to_numpy(results[name]), "float64")
        scale = max(1.0, np.abs(value).max())
        np.testing.assert_allclose(received / scale, value / scale, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize(
    ("policy", "dtype", "tolerance"),
    [
        ("float32", "float32", 1e-6),
        ("mixed_bfloat16", "bfloat16", 1e-2),
        ("float64", "float64", 1e-12),
    ],
)
def test_a_training_step_is_numpys(rank, policy, dtype, tolerance):
    x, weights = _inputs(rank)
    layer = _layer(dtype=policy)
    results = tf.function(_step)(layer, tf.cast(x, dtype), tf.constant(weights))
    assert results["y"].dtype == dtype
    assert (
        layer.gamma.dtype
        == layer.moving_mean.dtype
        == ("float64" if dtype == "float64" else "float32")
    )
    _check(results, layer, _numpy_step(x, weights), tolerance)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("rank", [2, 4])
def test_agrees_with_keras_in_both_modes(center, scale, rank):
    x = tf.constant(_inputs(rank)[0], tf.float32)
    options = {"momentum": 0.7, "epsilon": 1e-2, "center": center, "scale": scale}
    ours = BatchNorm(name="ours", **options)
    theirs = keras.layers.BatchNormalization(name="theirs", **options)
    for layer in (ours, theirs):
        layer.build(x.shape)
        for name in ("gamma", "beta"):
            if getattr(layer, name) is not None:
                getattr(layer, name).assign(GAMMA)
    np.testing.assert_allclose(ours(x, training=True), theirs(x, training=True), atol=2e-6)
    rows = np.prod(x.shape[:-1])
    biased = 0.7 + (ours.moving_variance.numpy() - 0.7) * (rows - 1) / rows
    np.testing.assert_allclose(biased, theirs.moving_variance, rtol=1e-6)
    np.testing.assert_allclose(ours.moving_mean, theirs.moving_mean, rtol=1e-6)
    theirs.moving_variance.assign(ours.moving_variance)
    np.testing.assert_allclose(ours(x), theirs(x), atol=2e-6)
    assert len(ours.trainable_variables) == center + scale


def test_inference_gradients_treat_the_statistics_as_constants():
    x, weights = _inputs(4)
    layer = _layer()
    layer.moving_mean.assign(BETA * 2)
    layer.moving_variance.assign(GAMMA * 3)
    x = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(layer(x) * weights.astype("float32"))
    dx = tape.gradient(loss, x)
    np.testing.assert_allclose(
        dx, weights * GAMMA / np.sqrt(GAMMA * 3 + 1e-5), rtol=1e-5, atol=1e-6
    )


def test_a_frozen_layer_is_in_inference_mode():
    x = tf.constant(_inputs(2)[0], tf.float32)
    layer = _layer()
    layer.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(CHANNELS))


def test_one_row_gives_the_offset_and_finite_statistics():
    layer = _layer()
    y = layer(tf.fill([1, CHANNELS], 3.0), training=True)
    np.testing.assert_allclose(y, BETA[None], atol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, np.full(CHANNELS, 0.9), rtol=1e-6)


def test_compiles_with_xla():
    x, weights = _inputs(4)
    layer = _layer()
    step = tf.function(_step, jit_compile=True)
    results = step(layer, tf.constant(x, tf.float32), tf.constant(weights, tf.float32))
    _check(results, layer, _numpy_step(x, weights), 1e-6)


def _replica_step(strategy, layer, x, weights):
    """A step with the batch dealt out; the parameters' gradients are summed as optimizers do."""
    replicas = strategy.num_replicas_in_sync
    blocks = zip(np.split(x, replicas), np.split(weights, replicas), strict=True)
    blocks = [(tf.constant(a, layer.compute_dtype), tf.constant(b)) for a, b in blocks]

    def value(i):
        return strategy.experimental_distribute_values_from_function(
            lambda context: blocks[context.replica_id_in_sync_group][i]
        )

    run = tf.function(lambda a, b: strategy.run(_step, args=(layer, a, b)))
    results = run(value(0), value(1)) if replicas > 1 else tf.function(_step)(layer, *blocks[0])
    local = {k: strategy.experimental_local_results(v) for k, v in results.items()}
    return {k: np.concatenate(v) if k in ("y", "dx") else sum(v) for k, v in local.items()}


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_synchronized_steps_do_not_depend_on_replicas(
    strategy_of, replicas, rank, policy, tolerance
):
    strategy = strategy_of(replicas)
    x, weights = _inputs(rank)
    x[: len(x) // 2] += 5  # the replicas' means differ
    with strategy.scope():
        layer = _layer(dtype=policy)
    results = _replica_step(strategy, layer, x, weights)
    _check(results, layer, _numpy_step(x, weights), tolerance)


def _components(strategy, variable):
    return [v.numpy() for v in strategy.experimental_local_results(variable.value)]


@pytest.mark.parametrize("synchronized", [True, False])
def test_moving_statistics_are_the_same_on_every_replica(strategy_of, synchronized):
    strategy = strategy_of(4)
    x, weights = _inputs(4)
    x += np.arange(8)[:, None, None, None]
    with strategy.scope():
        layer = _layer(synchronized=synchronized)
    _replica_step(strategy, layer, x, weights)
    for variable in (layer.moving_mean, layer.moving_variance):
        first, *others = _components(strategy, variable)
        assert len(others) == 3
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_unsynchronized_replicas_normalize_alone_and_average_their_statistics(strategy_of):
    strategy = strategy_of(2)
    x, weights = _inputs(4)
    x[:4] += 5
    with strategy.scope():
        layer = _layer(synchronized=False)
    results = _replica_step(strategy, layer, x, weights)
    halves = [_numpy_step(a, b) for a, b in zip(np.split(x, 2), np.split(weights, 2), strict=True)]
    expected = {
        "y": np.concatenate([h["y"] for h in halves]),
        "dx": np.concatenate([h["dx"] for h in halves]),
        "dgamma": sum(h["dgamma"] for h in halves),
        "dbeta": sum(h["dbeta"] for h in halves),
        "moving_mean": sum(h["moving_mean"] for h in halves) / 2,
        "moving_variance": sum(h["moving_variance"] for h in halves) / 2,
    }
    _check(results, layer, expected, 1e-6)


@pytest.mark.parametrize(("synchronized", "collectives"), [(True, 2), (False, 1)])
def test_one_collective_per_direction(strategy_of, monkeypatch, synchronized, collectives):
    sizes = []

    def counted(tensor):
        sizes.append(tensor.shape[0])
        return all_sum(tensor)

    all_sum = batch_norm.all_sum
    monkeypatch.setattr(batch_norm, "all_sum", counted)
    strategy = strategy_of(2)
    with strategy.scope():
        layer = _layer(synchronized=synchronized)
    _replica_step(strategy, layer, *_inputs(4))
    assert len(sizes) == 2 * collectives  # traced once per replica
    assert sorted(sizes) == sorted([3, 2] * 2 if synchronized else [2] * 2)


def test_variance_survives_a_large_mean_once_the_moving_mean_is_near(strategy_of):
    strategy = strategy_of(2)
    x, weights = _inputs(4, offset=3000.0)
    with strategy.scope():
        layer = _layer()
    layer.moving_mean.assign(np.full(CHANNELS, 3000.0))
    results = _replica_step(strategy, layer, x, weights)
    exact = _numpy_step(x.astype("float32").astype("float64"), weights)
    np.testing.assert_allclose(results["y"], exact["y"], atol=2e-3)


def test_a_layer_of_a_strategy_can_move_its_statistics_outside_of_it(strategy_of):
    strategy = strategy_of(2)
    x, weights = _inputs(2)
    with strategy.scope():
        layer = _layer()
    layer(tf.constant(x, tf.float32), training=True)
    expected = _numpy_step(x, weights)["moving_mean"]
    for value in _components(strategy, layer.moving_mean):
        np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_config_round_trip():
    layer = BatchNorm(
        momentum=0.8,
        epsilon=1e-4,
        center=False,
        gamma_initializer="zeros",
        synchronized=False,
        name="b",
    )
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config()
    copy.build((None, 3))
    assert copy.beta is None
    np.testing.assert_array_equal(copy.gamma, np.zeros(3))


@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (2, None)])
def test_other_ranks_are_refused(shape):
    with pytest.raises(ValueError, match="Received: "):
        BatchNorm(name="norm").build(shape)


@pytest.mark.parametrize("options", [{"momentum": 1.5}, {"momentum": -0.1}, {"epsilon": 0.0}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        BatchNorm(name="norm", **options)
