"""The running mean of an epoch: the same on every replica, and of finite values only."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods.shared_mean import SharedMean, finite_values


@pytest.mark.parametrize("replicas", [2, 4])
def test_a_shared_mean_is_the_same_number_on_every_replica(strategy_of, replicas):
    strategy = strategy_of(replicas)
    with strategy.scope():
        metric = SharedMean(name="m")
    tf.function(lambda: strategy.run(lambda: metric.update_state(0.1)))()
    tf.function(lambda: strategy.run(lambda: metric.update_state(0.3)))()
    total, count = metric.variables
    assert float(tf.convert_to_tensor(count.value)) == 2.0  # steps, not steps times replicas
    assert float(metric.result()) == pytest.approx(0.2)
    total.assign(0.7)
    assert [float(copy) for copy in total.value.values] == [np.float32(0.7)] * replicas


def test_a_shared_mean_takes_in_finite_values_only():
    metric = SharedMean(name="m")
    for value in (0.25, float("nan"), float("inf"), 0.5):
        metric.update_state(tf.constant(value))
    assert (float(metric.result()), float(metric.count)) == (0.375, 2.0)
    metric.reset_state()
    metric.update_state(tf.constant(float("-inf")))
    assert np.isnan(metric.result())  # not 0, which would look like a loss
    metric.update_state(tf.constant(-1.0))
    assert float(metric.result()) == -1.0


def test_single_values_become_sums_and_counts():
    values = tf.constant([0.25, float("nan"), float("inf"), -2.0])
    totals, counts = finite_values(values)
    np.testing.assert_array_equal(totals, [0.25, 0.0, 0.0, -2.0])
    np.testing.assert_array_equal(counts, [1.0, 0.0, 0.0, 1.0])
    metric = SharedMean(name="m")
    for total, count in zip(tf.unstack(totals), tf.unstack(counts), strict=True):
        metric.add(total, count)
    assert float(metric.result()) == -0.875
