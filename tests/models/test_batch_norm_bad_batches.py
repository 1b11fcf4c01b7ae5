"""What a batch that is not finite leaves behind in batch norm: nothing."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import BatchNorm

CHANNELS = 5
NAN, INF = float("nan"), float("inf")


def batch(seed, spoiled=None):
    x = np.random.default_rng(seed).normal(size=(8, 3, 4, CHANNELS)) + 1
    if spoiled is not None:
        x[-1, 0, 0, 2] = spoiled  # the last replica's last row
    return x


def statistics(layer):
    """Both moving statistics on every replica: [statistics, replicas, channels]."""
    return np.array(
        [
            [v.numpy() for v in getattr(s.value, "values", (s.value,))]
            for s in (layer.moving_mean, layer.moving_variance)
        ]
    )


def runner(strategy, *, dtype="float32", jit_compile=False, **options):
    """A layer, and a function that trains on one batch dealt out to the replicas."""
    replicas = strategy.num_replicas_in_sync
    with strategy.scope():
        layer = BatchNorm(name="norm", dtype=dtype, **options)
        layer.build((None, 3, 4, CHANNELS))

    def on_replica(x):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        rows = 8 // replicas
        layer(x[rows * replica : rows * (replica + 1)], training=True)

    step = tf.function(lambda x: strategy.run(on_replica, args=(x,)), jit_compile=jit_compile)
    return layer, lambda x: step(tf.constant(x, dtype))


@pytest.mark.parametrize(
    ("replicas", "options"),
    [
        (1, {}),
        (1, {"dtype": "float64"}),
        (1, {"jit_compile": True}),
        (2, {"synchronized": True}),
        (2, {"synchronized": False}),
    ],
)
@pytest.mark.parametrize("spoiled", [NAN, INF, 1e30])
def test_a_bad_batch_leaves_the_moving_statistics(strategy_of, replicas, options, spoiled):
    if options.get("dtype") == "float64":
        spoiled = 1e200 if spoiled == 1e30 else spoiled  # 1e30 squared is finite there
    layer, train = runner(strategy_of(replicas), **options)
    train(batch(0))
    before = statistics(layer)
    assert before.shape == (2, replicas, CHANNELS)
    train(batch(1, spoiled))
    np.testing.assert_array_equal(statistics(layer), before)
    train(batch(2))
    twin, train_twin = runner(strategy_of(replicas), **options)
    train_twin(batch(0)), train_twin(batch(2))
    np.testing.assert_array_equal(statistics(layer), statistics(twin))
    assert np.all(statistics(layer) != before)
