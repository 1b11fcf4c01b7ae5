"""Slow copies against the formula in float64, on 1, 2 and 4 replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import BatchNorm, ResNet, copy_weights, cosine_ema_decay, update_ema
from tfcontrast.train import state


class Network(keras.Model):
    def __init__(self, dtype="float32", width=4):
        super().__init__(name="network", dtype=dtype)
        self.dense = keras.layers.Dense(width, name="dense", dtype=dtype)
        self.norm = BatchNorm(name="norm", dtype=dtype)

    def call(self, rows, training=False):
        return self.norm(self.dense(rows), training=training)


def pair(strategy=None, **options):
    """A network and another, with equal shapes and different values."""
    networks = []
    with (strategy or tf.distribute.get_strategy()).scope():
        for seed in (0, 1):
            rng = np.random.default_rng(seed)
            network = Network(**options)
            network(tf.zeros([2, 3]))
            for variable in network.variables:
                variable.assign(rng.random(variable.shape))
            networks.append(network)
    return networks


def values(network):
    return state.values(dict(state.named_variables(network, "network")))


def is_statistic(name):
    return "moving" in name


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_is_the_formula_and_the_same_on_every_replica(strategy_of, replicas):
    strategy = strategy_of(replicas)
    source, target = pair(strategy)
    one_source, one_target = pair()
    first, slow = values(source), values(target)
    expected = {
        name: value if is_statistic(name) else 0.9**3 * value + (1 - 0.9**3) * first[name]
        for name, value in slow.items()
    }
    run = tf.function(lambda: strategy.run(lambda: update_ema(source, target, 0.9)))
    run_one = tf.function(lambda: update_ema(one_source, one_target, 0.9))
    for _ in range(3):
        run(), run_one()
    found = values(target)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(found[name], values(one_target)[name], err_msg=name)
    for name, value in values(source).items():
        np.testing.assert_array_equal(value, first[name], err_msg=name)
    for name, variable in state.named_variables(target, "network"):
        for copy in getattr(variable.value, "values", [variable.value]):
            np.testing.assert_array_equal(copy.numpy(), found[name], err_msg=name)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_copy_is_exact_on_every_replica(strategy_of, replicas):
    source, target = pair(strategy_of(replicas))
    copy_weights(source, target)
    wanted = values(source)
    for name, variable in state.named_variables(target, "network"):
        for copy in getattr(variable.value, "values", [variable.value]):
            np.testing.assert_array_equal(copy.numpy(), wanted[name], err_msg=name)


@pytest.mark.parametrize("statistics", ["own", "average", "copy"])
@pytest.mark.parametrize("decay", [0.0, 0.25, 1.0])
def test_statistics_are_kept_averaged_or_copied(statistics, decay):
    source, target = pair()
    ours, theirs = values(source), values(target)
    update_ema(source, target, decay, statistics=statistics)
    for name, value in values(target).items():
        keep = decay
        if is_statistic(name):
            keep = {"own": 1.0, "average": decay, "copy": 0.0}[statistics]
        if keep in (0.0, 1.0):  # bit for bit
            np.testing.assert_array_equal(value, theirs[name] if keep else ours[name])
        else:
            wanted = keep * theirs[name] + (1 - keep) * ours[name]
            np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_a_frozen_target_is_averaged_too():
    source, target = pair()
    target.trainable = False
    ours = values(source)
    update_ema(source, target, 0.0)
    for name, value in values(target).items():
        assert np.array_equal(value, ours[name]) != is_statistic(name), name


def test_in_a_bfloat16_network_the_average_is_float32s():
    (source, target), (plain_source, plain_target) = pair(dtype="mixed_bfloat16"), pair()

    class Step(keras.layers.Layer):
        def __init__(self):
            super().__init__(dtype="mixed_bfloat16")
            self.source, self.target = source, target

        def call(self, rows):
            update_ema(source, target, tf.constant(0.999))
            return rows

    tf.function(Step())(tf.zeros([1, 1]))
    update_ema(plain_source, plain_target, tf.constant(0.999))
    wanted = values(plain_target)
    for name, value in values(target).items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, wanted[name], rtol=1e-6, err_msg=name)
    copy_weights(source, target)
    for name, value in values(target).items():
        np.testing.assert_array_equal(value, values(source)[name])


def test_compiles_with_xla_and_makes_no_gradient():
    source, target = pair()
    plain_source, plain_target = pair()

    @tf.function(jit_compile=True)
    def step(rows):
        with tf.GradientTape() as tape:
            outputs = source(rows)
            update_ema(source, target, cosine_ema_decay(0.9, 3, 10))
            loss = tf.reduce_sum(outputs * target(rows))
        return tape.gradient(loss, [v.value for v in source.trainable_variables])

    rows = tf.constant([[1.0, 2.0, 3.0], [3.0, 1.0, 0.0]])
    found = step(rows)
    update_ema(plain_source, plain_target, cosine_ema_decay(0.9, 3, 10))
    for name, value in values(target).items():
        np.testing.assert_allclose(value, values(plain_target)[name], rtol=1e-6)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(source(rows) * tf.constant(plain_target(rows)))
    expected = tape.gradient(loss, [v.value for v in source.trainable_variables])
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_residual_networks_pair_up():
    source, target = (
        ResNet(depth=10, width_multiplier=0.1, stem="cifar_stride2", name=name)
        for name in ("backbone", "target_backbone")
    )
    for network in (source, target):
        network(tf.zeros([2, 8, 8, 3]))
    target.trainable = False
    images = tf.random.stateless_uniform([4, 8, 8, 3], [0, 1])
    assert np.any(source(images) != target(images))
    copy_weights(source, target)
    np.testing.assert_array_equal(source(images), target(images))


def test_the_decay_rises_on_half_a_cosine():
    steps = np.arange(121)
    found = [float(cosine_ema_decay(0.996, tf.constant(step), 100)) for step in steps]
    progress = np.minimum(steps / 100, 1)
    np.testing.assert_allclose(
        found, 1 - 0.004 * (1 + np.cos(np.pi * progress)) / 2, rtol=0, atol=1.2e-7
    )
    assert found[0] == pytest.approx(0.996)
    assert found[100] == found[120] == 1.0


@pytest.mark.parametrize("function", [copy_weights, lambda a, b: update_ema(a, b, 0.5)])
def test_another_architecture_is_refused(function):
    source, _ = pair()
    wider, _ = pair(width=5)
    before = values(wider)
    with pytest.raises(ValueError, match=r"kernel \(3, 4\) in the source .* kernel \(3, 5\)$"):
        function(source, wider)
    with pytest.raises(ValueError, match=r"alike\. Received: .* the target has nothing$"):
        function(source, source.dense)
    for name, value in values(wider).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: update_ema(a, b, 1.1), r"decay must be in \[0, 1\]\. Received: 1\.1$"),
        (lambda a, b: update_ema(a, b, -1), r"Received: -1$"),
        (lambda a, b: update_ema(a, b, 0.5, statistics="no"), r"own, average, copy.*'no'$"),
        (lambda a, b: cosine_ema_decay(1.5, 0, 1), r"base must be in \[0, 1\]\. Received: 1\.5"),
        (lambda a, b: cosine_ema_decay(0.5, 0, 0), r"total_steps must be positive\. Received: 0"),
    ],
)
def test_numbers_out_of_range_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(*pair())
