import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.errors import UserError


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


@pytest.mark.parametrize("text", ["", None])
def test_a_cluster_that_is_not_told(monkeypatch, text):
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    if text is None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
    else:
        monkeypatch.setenv("TF_CONFIG", text)
    message = r"TF_CONFIG environment variable or from Slurm \(srun\); neither is there$"
    with pytest.raises(UserError, match=message):
        distribute.make_strategy("multi_worker")


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {"worker": []}, "task": {}}'])
def test_a_cluster_that_cannot_be_read_is_not_looked_for_elsewhere(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(UserError, match=r"TF_CONFIG must be like .*Received: ") as caught:
        distribute.make_strategy("multi_worker")
    assert repr(text) in str(caught.value)


def test_a_cluster_that_comes_too_late(monkeypatch):
    cluster = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}}
    monkeypatch.setenv("TF_CONFIG", json.dumps({**cluster, "task": {"type": "worker", "index": 0}}))
    with pytest.raises(UserError, match=r"the cluster of TF_CONFIG did not come up \(.+\)$"):
        distribute.make_strategy("multi_worker")


@pytest.mark.parametrize(
    ("jobs", "task", "number", "chief", "count"),
    [
        ({"worker": ["a:1", "b:1"]}, "worker", 0, True, 2),
        ({"worker": ["a:1", "b:1"]}, "worker", 1, False, 2),
        ({"chief": ["c:1"], "worker": ["a:1", "b:1"]}, "worker", 0, False, 3),
        ({"chief": ["c:1"], "worker": ["a:1"]}, "chief", 0, True, 2),
        ({"worker": ["a:1"], "evaluator": ["e:1"]}, "evaluator", 0, False, 1),
        ({"worker": ["a:1"]}, "worker", 0, True, 1),
    ],
)
def test_one_worker_is_the_chief(jobs, task, number, chief, count):
    class Workers(tf.distribute.MultiWorkerMirroredStrategy):
        def __init__(self):
            """Without a cluster."""

        cluster_resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(jobs), task_type=task, task_id=number
        )

    assert distribute.is_chief(Workers()) is chief
    assert distribute.num_workers(Workers()) == count


@pytest.mark.parametrize("replicas", [1, 2])
def test_alone_everyone_is_the_chief_and_decides(strategy_of, replicas):
    strategy = strategy_of(replicas)
    assert distribute.is_chief(strategy)
    assert distribute.num_workers(strategy) == 1
    assert distribute.any_worker(strategy, True) is True
    assert distribute.any_worker(strategy, False) is False
    arrays = {"a": object()}  # as it is
    assert distribute.chiefs_arrays(strategy, arrays) == arrays


@pytest.mark.parametrize(
    ("processes", "process", "replicas", "expected"),
    [(1, 0, 1, (0, 1, 1)), (1, 0, 4, (0, 4, 4)), (2, 1, 8, (4, 4, 8)), (3, 2, 3, (2, 1, 3))],
)
def test_a_process_feeds_its_own_replicas(processes, process, replicas, expected):
    context = tf.distribute.InputContext(processes, process, replicas)
    assert distribute.worker_share(context) == expected


def test_unequal_processes_are_refused():
    with pytest.raises(ValueError, match=r"Received: 3 replicas and 2 processes$"):
        distribute.worker_share(tf.distribute.InputContext(2, 0, 3))


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_strategy_tells_the_share(strategy_of, replicas):
    shares = []

    def dataset(context):
        shares.append(distribute.worker_share(context))
        return tf.data.Dataset.range(replicas).batch(1)

    strategy = strategy_of(replicas)
    batch = next(iter(strategy.distribute_datasets_from_function(dataset)))
    assert shares == [(0, replicas, replicas)]
    rows = [int(rows[0]) for rows in strategy.experimental_local_results(batch)]
    assert rows == list(range(replicas))


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
