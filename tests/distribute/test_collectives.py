import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute


def pieces(strategy, values):
    """Deals a NumPy array's rows out to the replicas."""
    count = strategy.num_replicas_in_sync
    rows = len(values) // count
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            values[
                rows * context.replica_id_in_sync_group : rows
                * (context.replica_id_in_sync_group + 1)
            ]
        )
    )


def on_replicas(strategy, function, *arrays):
    """Runs a function on every replica's rows; returns each replica's result."""
    dealt = [pieces(strategy, array) for array in arrays]
    run = tf.function(lambda *parts: strategy.run(function, args=parts))
    return [
        tuple(value.numpy() for value in strategy.experimental_local_results(result))
        for result in tf.nest.flatten(run(*dealt))
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_gather_gives_all_rows_in_order_to_everyone(strategy_of, replicas, dtype):
    rows = np.arange(24).reshape(8, 3).astype(tf.dtypes.as_dtype(dtype).as_numpy_dtype)

    def step(x):
        return distribute.gather(x), distribute.first_row(x), distribute.replica_id()

    gathered, first, number = on_replicas(strategy_of(replicas), step, rows)
    for copy in gathered:
        np.testing.assert_array_equal(copy, rows)
    assert list(first) == [8 // replicas * i for i in range(replicas)]
    assert list(number) == list(range(replicas))


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_gradients_pass_gather_exactly(strategy_of, replicas):
    """Sum over anchors i, candidates j of w_ij (x_i . x_j)^2 has the gradient of one replica."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(8, 3)), rng.normal(size=(8, 8))
    dots = x @ x.T
    pulled = 2 * w * dots
    expected = pulled @ x + pulled.T @ x

    def step(local, weights):
        with tf.GradientTape() as tape:
            tape.watch(local)
            everyone = distribute.gather(local)
            loss = tf.reduce_sum(weights * tf.matmul(local, everyone, transpose_b=True) ** 2)
        return tape.gradient(loss, local)

    (gradients,) = on_replicas(strategy_of(replicas), step, x, w)
    np.testing.assert_allclose(np.concatenate(gradients), expected, rtol=1e-12)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_all_sum_and_its_gradient_are_sums(strategy_of, replicas):
    x = np.arange(1.0, 5.0)

    def step(local):
        with tf.GradientTape() as tape:
            tape.watch(local)
            total = distribute.all_sum(tf.reduce_sum(local))
            scaled = total * (1.0 + tf.cast(distribute.replica_id(), tf.float64))
        return total, tape.gradient(scaled, local), tf.constant(distribute.num_replicas())

    total, gradients, counts = on_replicas(strategy_of(replicas), step, x)
    assert total == (10.0,) * replicas
    assert counts == (replicas,) * replicas
    np.testing.assert_array_equal(np.concatenate(gradients), [sum(range(1, replicas + 1))] * 4)


def test_outside_of_a_step_there_is_one_replica():
    rows = tf.ones([2, 3])
    assert distribute.num_replicas() == 1
    assert int(distribute.replica_id()) == 0
    assert distribute.gather(rows) is rows
    assert distribute.all_sum(rows) is rows
    assert int(distribute.first_row(rows)) == 0


def test_in_scope_but_outside_of_a_step_there_is_one_replica(strategy_of):
    with strategy_of(2).scope():
        assert distribute.num_replicas() == 1
        assert int(distribute.replica_id()) == 0
