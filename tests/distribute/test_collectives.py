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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "uint8"])
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


@pytest.fixture
def collectives(monkeypatch):
    """A list that grows by one for every collective that one replica's trace makes."""
    made = []
    all_reduce = tf.distribute.ReplicaContext.all_reduce

    def counted(context, *args, **options):
        made.append(context)
        return all_reduce(context, *args, **options)

    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_reduce", counted)
    return made


@pytest.mark.parametrize(("differentiable", "expected"), [(True, 2), (False, 1)])
def test_only_gradients_cost_a_second_collective(
    strategy_of, collectives, differentiable, expected
):
    x = np.arange(8.0).reshape(4, 2)

    def step(local):
        with tf.GradientTape() as tape:
            tape.watch(local)
            everyone = distribute.gather(local, differentiable=differentiable)
            loss = tf.reduce_sum(tf.matmul(local, everyone, transpose_b=True))
        return everyone, tape.gradient(loss, local)

    everyone, gradients = on_replicas(strategy_of(2), step, x)
    np.testing.assert_array_equal(everyone, [x, x])
    assert len(collectives) == expected * 2  # two replicas
    constant = np.tile(x.sum(0), [4, 1])
    factor = 2 if differentiable else 1
    np.testing.assert_array_equal(np.concatenate(gradients), factor * constant)


def test_without_gradient_one_replica_has_none_either():
    rows = tf.constant([[1.0]])
    with tf.GradientTape() as tape:
        tape.watch(rows)
        loss = tf.reduce_sum(distribute.gather(rows, differentiable=False))
    assert tape.gradient(loss, rows) is None


def test_a_row_that_is_not_finite_stays_the_only_one(strategy_of):
    x = np.arange(8.0).reshape(4, 2)
    x[0], x[3, 1] = np.nan, np.inf
    (copies,) = on_replicas(strategy_of(2), distribute.gather, x)
    np.testing.assert_array_equal(copies, [x, x])


def test_an_order_is_a_permutation_of_the_seed_and_the_step():
    draw = tf.function(lambda step: distribute.permutation(50, seed=3, step=step), jit_compile=True)
    orders = [distribute.permutation(50, seed=3, step=step).numpy() for step in range(20)]
    for step, order in enumerate(orders):
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
        np.testing.assert_array_equal(draw(tf.constant(step, tf.int64)), order)
    assert len({tuple(order) for order in orders}) == 20
    assert np.any(distribute.permutation(50, seed=4, step=0) != orders[0])
    assert distribute.permutation(50, seed=2**40, step=0).dtype == tf.int32
    # rows land anywhere: the mean place over many steps is the middle, 24.5 +- 14.4 / sqrt(400)
    places = [int(draw(tf.constant(step, tf.int64))[7]) for step in range(400)]
    assert abs(np.mean(places) - 24.5) < 4 * 14.43 / 20


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16", "float32", "int64"])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_shuffled_rows_come_from_other_replicas_and_go_home(strategy_of, replicas, dtype):
    kind = tf.dtypes.as_dtype(dtype).as_numpy_dtype
    rows = np.random.default_rng(0).integers(0, 256, [16, 2, 3]).astype(kind)
    owners = np.repeat(np.arange(replicas), 16 // replicas)

    def step(local, owner):
        order = distribute.permutation(16, seed=0, step=tf.constant(5, tf.int64))
        dealt = distribute.shuffle(local, order)
        away = distribute.shuffle(owner, order)
        return dealt, away, distribute.unshuffle(dealt, order), tf.identity(order)

    dealt, away, home, orders = on_replicas(strategy_of(replicas), step, rows, owners)
    assert all(np.array_equal(order, orders[0]) for order in orders)
    np.testing.assert_array_equal(np.concatenate(dealt), rows[orders[0]])
    np.testing.assert_array_equal(np.concatenate(home), rows)
    assert dealt[0].dtype == home[0].dtype == kind
    np.testing.assert_array_equal(np.concatenate(away), owners[orders[0]])
    if replicas > 1:
        foreign = np.concatenate(away) != owners
        assert foreign.mean() > 0.3  # 1 - 1 / replicas is expected
        assert all(len(set(numbers)) > 1 for numbers in away)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_gradients_go_the_way_back(strategy_of, replicas):
    """The keys' gradient passes through unshuffle, an encoder and shuffle to the right image."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(8, 3)), rng.normal(size=(8, 3))

    def step(local, weights):
        order = distribute.permutation(8, seed=0, step=0)
        with tf.GradientTape() as tape:
            tape.watch(local)
            keys = distribute.unshuffle(distribute.shuffle(local, order) ** 2, order)
            loss = tf.reduce_sum(weights * keys)
        return tf.convert_to_tensor(tape.gradient(loss, local))  # sparse on one replica

    (gradients,) = on_replicas(strategy_of(replicas), step, x, w)
    np.testing.assert_allclose(np.concatenate(gradients), 2 * x * w, rtol=1e-12)


def test_shuffling_compiles_with_xla():
    rows = tf.reshape(tf.range(12.0), [6, 2])
    order = distribute.permutation(6, seed=0, step=0)
    both = tf.function(
        lambda x, o: (distribute.shuffle(x, o), distribute.unshuffle(x, o)), jit_compile=True
    )
    dealt, home = both(rows, order)
    np.testing.assert_array_equal(dealt, rows.numpy()[order.numpy()])
    np.testing.assert_array_equal(home, rows.numpy()[np.argsort(order.numpy())])


@pytest.mark.parametrize("function", [distribute.shuffle, distribute.unshuffle])
def test_an_order_of_another_batch_is_refused(strategy_of, function):
    with pytest.raises(ValueError, match=r"each of 1 \* 4 rows\. Received: 5"):
        function(tf.zeros([4, 2]), tf.range(5))

    def step(local):
        return function(local, tf.range(4))

    with pytest.raises(ValueError, match=r"each of 2 \* 4 rows\. Received: 4"):
        on_replicas(strategy_of(2), step, np.zeros([8, 2]))


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
