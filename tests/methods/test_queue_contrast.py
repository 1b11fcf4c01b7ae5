"""Shuffling, and the queue of keys."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute, losses
from tfcontrast.errors import UserError
from tfcontrast.methods import Plan, queue_contrast
from tfcontrast.methods.queue_contrast import QueueContrastConfig
from tfcontrast.models import BatchNorm, Queue, ResNet

ORDER = distribute.permutation(8, seed=3, step=5)


def random_rows(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def run_replicas(strategy, function, *values):
    """Deals rows out to the replicas, runs the function and concatenates its results' rows."""
    replicas = strategy.num_replicas_in_sync
    everyone = [np.split(value, replicas) for value in values]
    shares = [
        strategy.experimental_distribute_values_from_function(
            lambda context, blocks=blocks: tf.constant(blocks[context.replica_id_in_sync_group])
        )
        for blocks in everyone
    ]
    results = tf.function(lambda *share: strategy.run(function, args=share))(*shares)
    return np.concatenate(strategy.experimental_local_results(results))


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_shuffling_undoes_its_permutation(strategy_of, replicas):
    images = random_rows(8, 4, 4, 3)
    seen = []

    def encode(rows):
        seen.append(rows.shape)
        return {"place": distribute.first_row(rows) + tf.range(rows.shape[0]), "rows": 2 * rows}

    def shuffled(name):
        return lambda rows: queue_contrast.encode_shuffled(encode, rows, ORDER)[name]

    strategy = strategy_of(replicas)
    np.testing.assert_array_equal(run_replicas(strategy, shuffled("rows"), images), 2 * images)
    places = run_replicas(strategy, shuffled("place"), images)
    assert set(seen) == {(8 // replicas, 4, 4, 3)}
    # row i was encoded at the place where the order has i
    np.testing.assert_array_equal(places[ORDER.numpy()], np.arange(8))
    assert np.any(places != np.arange(8))


def small_network(**options):
    network = ResNet(depth=10, width_multiplier=0.1, stem="cifar_stride2", name="small", **options)
    network.build((None, 16, 16, 3))
    return network


def images_of_groups():
    """Eight images; the two halves, and even more the pairs in them, have colours of their own."""
    images = 0.2 * np.random.default_rng(0).random([8, 16, 16, 3])
    return (images + np.linspace(0, 0.8, 8)[:, None, None, None]).astype(np.float32)


def moving_statistics(network):
    norms = [layer for layer in network._flatten_layers() if isinstance(layer, BatchNorm)]
    return [norm.moving_variance.numpy() for norm in norms]


@pytest.fixture(scope="module")
def encoded():
    """What ``encode_once`` has found, by its arguments."""
    return {}


@pytest.fixture
def encode_once(encoded, strategy_of):
    """``encode``, traced once for arguments that several tests use."""

    def run(replicas, shuffle_bn, **options):
        key = (replicas, shuffle_bn, *options.items())
        if key not in encoded:
            encoded[key] = encode(strategy_of(replicas), shuffle_bn, **options)
        return encoded[key]

    return run


def encode(strategy, shuffle_bn, **options):
    with strategy.scope():
        network = small_network(**options)
    start = np.random.default_rng(1)
    network.set_weights([start.normal(0.3, 0.2, v.shape) ** 2 for v in network.weights])
    config = QueueContrastConfig(shuffle_bn=shuffle_bn)

    def step(images):
        return queue_contrast.encode_keys(
            lambda rows: network(rows, training=True),
            images, config=config, plan=Plan(seed=3), step=tf.constant(5, tf.int64),
        )  # fmt: skip

    return run_replicas(strategy, step, images_of_groups()), moving_statistics(network)


@pytest.mark.parametrize(
    ("replicas", "options"),
    [(1, {"batch_norm_splits": 4}), (2, {"batch_norm_splits": 4}), (2, {"global_bn": False})],
)
def test_shuffling_changes_the_keys_statistics(encode_once, replicas, options):
    plain_keys, plain = encode_once(replicas, False, **options)
    keys, statistics = encode_once(replicas, True, **options)
    # Groups of like images vary little within; shuffled ones vary more, first of all in the stem.
    assert np.all(statistics[0] > 1.01 * plain[0])
    assert np.abs(keys - plain_keys).max() > 0.05


def test_with_groups_the_keys_are_the_same_on_any_replicas(encode_once):
    expected, statistics = encode_once(1, True, batch_norm_splits=4)
    for replicas in (2, 4):
        keys, others = encode_once(replicas, True, batch_norm_splits=4)
        np.testing.assert_allclose(keys, expected, rtol=1e-3, atol=1e-4)
        for one, other in zip(statistics, others, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-4)


def test_over_the_whole_batch_shuffling_changes_nothing(encode_once):
    plain_keys, plain = encode_once(2, False)
    keys, statistics = encode_once(2, True)
    np.testing.assert_allclose(keys, plain_keys, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(statistics[0], plain[0], rtol=1e-5)


def test_the_order_is_of_the_step_and_the_seed():
    orders = []

    def encoded(seed, step):
        def encode(rows):
            orders.append(tuple(rows.numpy()[:, 0].astype(int)))
            return rows

        rows = tf.range(16.0)[:, None]
        return queue_contrast.encode_keys(
            encode, rows, config=QueueContrastConfig(), plan=Plan(seed=seed), step=step
        )

    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        np.testing.assert_array_equal(encoded(seed, step)[:, 0], np.arange(16))
    assert len(set(orders)) == 3
    assert orders[3] == orders[0]
    assert all(sorted(order) == list(range(16)) for order in orders)


def test_keys_carry_no_gradient():
    rows = tf.constant(random_rows(4, 3))
    for shuffle_bn in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            config = QueueContrastConfig(shuffle_bn=shuffle_bn)
            keys = queue_contrast.encode_keys(
                lambda x: {"keys": 3 * x}, rows, config=config, plan=Plan(), step=0
            )["keys"]
        np.testing.assert_array_equal(keys, 3 * rows)
        assert tape.gradient(keys, rows) is None


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("keys_per_image", [1, 2])
def test_pushed_keys_are_unit_rows_in_the_global_batchs_order(
    strategy_of, replicas, keys_per_image
):
    strategy, keys = strategy_of(replicas), random_rows(8, keys_per_image, 3)
    with strategy.scope():
        queue = Queue(20, 3, seed=0, name="queue")
    first = queue.read().numpy()

    def push(share):
        rows = tf.concat(tf.unstack(share, axis=1), 0)  # grouped by view
        queue_contrast.push_keys(queue, rows, tf.constant(True), keys_per_image=keys_per_image)
        return share

    run_replicas(strategy, push, keys)
    expected = np.concatenate([losses.unit_rows(keys[:, view]) for view in range(keys_per_image)])
    np.testing.assert_allclose(queue.read()[: len(expected)], expected, rtol=1e-6)
    np.testing.assert_array_equal(queue.read()[len(expected) :], first[len(expected) :])


def test_a_step_that_was_not_taken_pushes_nothing():
    queue = Queue(6, 3, seed=0, name="queue")
    before = [v.numpy().copy() for v in queue.variables]
    queue_contrast.push_keys(queue, tf.ones([4, 3]), tf.constant(False))
    for old, new in zip(before, queue.variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_contrast_is_the_golden_value():
    i, j = np.arange(4)[:, None], np.arange(6)
    queries = np.sin(1 + 0.7 * i + 1.3 * j + 0.11 * i * j)
    keys = np.cos(0.5 + 0.9 * i + 0.8 * j + 0.07 * i * j)
    rows = np.sin(0.3 + 0.5 * np.arange(5)[:, None] + 1.7 * j)
    queue = Queue(5, 6, seed=0, name="queue")
    queue.push(losses.unit_rows(tf.constant(rows)))
    # NumPy in float64: cross entropy of [q.k, q.n_1, ...] / t with target 0.
    for temperature, golden in ((0.07, 4.2700134969), (0.2, 2.1351705443)):
        loss, accuracy = queue_contrast.contrast(
            tf.constant(queries), tf.constant(keys), queue, temperature
        )
        assert float(loss) == pytest.approx(golden, rel=1e-6)
        assert float(accuracy) == 0
    _, accuracy = queue_contrast.contrast(tf.constant(keys), tf.constant(keys), queue, 0.2)
    assert float(accuracy) == 1


@pytest.mark.parametrize(
    ("layers", "hidden", "shapes"),
    [
        (1, 0, [(6, 5), (5,)]),
        (2, 0, [(6, 6), (6,), (6, 5), (5,)]),
        (3, 7, [(6, 7), (7,), (7, 7), (7,), (7, 5), (5,)]),
    ],
)
def test_heads_are_dense_layers_with_biases_and_nothing_else(layers, hidden, shapes):
    config = QueueContrastConfig(num_proj_layers=layers, proj_hidden_dim=hidden, proj_out_dim=5)
    head = queue_contrast.make_head(config, "projector")
    head(tf.zeros([2, 6]))
    assert [tuple(v.shape) for v in head.variables] == shapes
    assert head.name == "projector"


def test_a_queue_holds_the_keys_of_a_step_at_least():
    config, plan = QueueContrastConfig(queue_size=31, proj_out_dim=5), Plan(batch_size=16, seed=4)
    queue = queue_contrast.make_queue(config, plan, 1, "queue")
    assert (queue.size, queue.dim) == (31, 5)
    other = queue_contrast.make_queue(config, plan, 1, "dense_queue")
    assert np.any(queue.read() != other.read())
    message = (
        r"^--queue_size must be at least the 32 keys of a step \(--train_batch_size=16\)\. "
        r"Received: 31$"
    )
    with pytest.raises(UserError, match=message):
        queue_contrast.make_queue(config, plan, 2, "queue")
