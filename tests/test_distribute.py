import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.errors import UserError


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


def test_one_cpu_needs_no_strategy():
    default = tf.distribute.get_strategy()
    for options in ({}, {"name": "none"}, {"name": "auto", "num_replicas": 1}):
        assert distribute.make_strategy(**options) is default


@pytest.mark.parametrize("name", ["auto", "mirrored"])
def test_replicas_on_the_cpus_that_there_are(name):
    strategy = distribute.make_strategy(name, num_replicas=2)
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == 2
    assert all("CPU" in device for device in strategy.extended.worker_devices)


def test_mirrored_alone_is_one_replica():
    assert distribute.make_strategy("mirrored").num_replicas_in_sync == 1


@pytest.mark.parametrize(
    ("name", "replicas", "message"),
    [
        ("cluster", 0, r"--strategy must be one of auto, none, .*Received: 'cluster'"),
        ("auto", -1, r"--num_replicas must not be negative\. Received: -1"),
        ("none", 2, r"--num_replicas is for --strategy=mirrored\. Received: 2 with .*=none"),
        ("tpu", 2, r"--num_replicas is for --strategy=mirrored"),
        ("mirrored", 5, r"--num_replicas=5: the CPU cannot be split any more"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(name, replicas, message):
    with pytest.raises(UserError, match=message) as caught:
        distribute.make_strategy(name, num_replicas=replicas)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "gpus", "replicas", "expected"),
    [
        ("auto", 1, 0, None),
        ("auto", 2, 0, ["GPU:0", "GPU:1"]),
        ("mirrored", 3, 0, ["GPU:0", "GPU:1", "GPU:2"]),
        ("mirrored", 3, 2, ["GPU:0", "GPU:1"]),
        ("none", 3, 0, None),
    ],
)
def test_gpus_are_counted(monkeypatch, name, gpus, replicas, expected):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * gpus)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda devices: devices)
    strategy = distribute.make_strategy(name, num_replicas=replicas)
    assert strategy == (expected or tf.distribute.get_strategy())


def test_more_replicas_than_gpus(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * 2)
    with pytest.raises(UserError, match="--num_replicas=4 needs as many GPUs; this machine has 2"):
        distribute.make_strategy("mirrored", num_replicas=4)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cluster": {"worker": []}, "task": {}}'])
def test_a_cluster_that_is_not_told(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=r"TF_CONFIG") as caught:
        distribute.make_strategy("multi_worker")
    assert (repr(text) in str(caught.value)) == bool(text)


def test_a_cluster_that_comes_too_late(monkeypatch):
    cluster = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}}
    monkeypatch.setenv("TF_CONFIG", json.dumps({**cluster, "task": {"type": "worker", "index": 0}}))
    with pytest.raises(UserError, match=r"the cluster of TF_CONFIG did not come up \(.+\)$"):
        distribute.make_strategy("multi_worker")


@pytest.mark.parametrize(
    ("jobs", "task", "number", "expected"),
    [
        ({"worker": ["a:1", "b:1"]}, "worker", 0, True),
        ({"worker": ["a:1", "b:1"]}, "worker", 1, False),
        ({"chief": ["c:1"], "worker": ["a:1"]}, "worker", 0, False),
        ({"chief": ["c:1"], "worker": ["a:1"]}, "chief", 0, True),
        ({"worker": ["a:1"], "evaluator": ["e:1"]}, "evaluator", 0, False),
    ],
)
def test_one_worker_is_the_chief(jobs, task, number, expected):
    class Workers(tf.distribute.MultiWorkerMirroredStrategy):
        def __init__(self):
            """Without a cluster."""

        cluster_resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(jobs), task_type=task, task_id=number
        )

    assert distribute.is_chief(Workers()) is expected


def test_alone_everyone_is_the_chief(strategy_of):
    assert distribute.is_chief(strategy_of(1))
    assert distribute.is_chief(strategy_of(2))


_FRESH = """
import tensorflow as tf
from tfcontrast import distribute
from tfcontrast.errors import UserError
strategy = distribute.make_strategy("mirrored", num_replicas=3)
print(strategy.num_replicas_in_sync, len(tf.config.list_logical_devices("CPU")))
try:
    distribute.make_strategy("tpu")
except UserError as error:
    print(error)
"""


def test_a_fresh_process_splits_its_cpu_and_has_no_tpu():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", _FRESH], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    replicas, refused = done.stdout.splitlines()
    assert refused.startswith("--strategy=tpu: no TPU answered at 'this machine' (")
    assert replicas == "3 3"
