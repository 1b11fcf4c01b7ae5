import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import BatchNorm, still_statistics
from tfcontrast.models.still_statistics import statistics_stand_still


@pytest.fixture
def network():
    return keras.Sequential([BatchNorm(momentum=0.8), keras.layers.Dense(3), BatchNorm()])


X = np.random.default_rng(0).normal(3, 2, [20, 4]).astype(np.float32)


@pytest.mark.parametrize("traced", [False, True])
def test_a_pass_normalizes_by_the_batch_and_moves_nothing(network, traced):
    network(X)
    before = network.get_weights()
    run = tf.function(network) if traced else network
    with still_statistics():
        y = run(X, training=True)
    np.testing.assert_allclose(tf.reduce_mean(y, 0), 0, atol=1e-5)
    np.testing.assert_allclose(tf.math.reduce_std(y, 0), 1, atol=1e-3)
    for value, old in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_afterwards_they_move_again_even_after_an_error(network):
    network(X)

    def fail():
        with still_statistics():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not statistics_stand_still()
    network(X, training=True)
    np.testing.assert_allclose(network.layers[0].moving_mean, 0.2 * X.mean(0), rtol=1e-5)


@pytest.mark.parametrize("synchronized", [True, False])
def test_replicas_that_take_turns_do_not_disturb_each_other(strategy_of, synchronized):
    """A replica's thread waits within it, at a collective, while the other one enters it."""
    strategy = strategy_of(2)
    with strategy.scope():
        layer = BatchNorm(momentum=0.8, synchronized=synchronized)
        layer.build((None, 4))

    def step():
        with still_statistics():
            layer(tf.constant(X), training=True)
        layer(tf.constant(X), training=True)

    tf.function(lambda: strategy.run(step))()
    np.testing.assert_allclose(layer.moving_mean, 0.2 * X.mean(0), rtol=1e-5)
