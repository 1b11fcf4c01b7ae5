"""A strict and repeatable world for every test: four CPU devices, fixed seeds, no network."""

import gc
import json
import os
import socket
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)

_STRATEGIES = {}
_GRADIENTS = ops.gradient_registry._registry
_AT_START = len(_GRADIENTS)


@pytest.fixture(autouse=True)
def _fixed_seeds():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _forgotten_graphs():
    """TensorFlow keeps every traced `tf.custom_gradient`, and so its graph, for good.

    A worker that ran all files so grew to 10 GB, and a trace that takes 10 s in a new process took
    over a minute in it: every collection of garbage walked through the graphs.
    """
    yield
    if len(_GRADIENTS) > _AT_START + 100:
        for name in [name for name in _GRADIENTS if name.startswith("CustomGradient-")]:
            del _GRADIENTS[name]
        gc.collect()


@pytest.fixture
def golden_views():
    """z1, z2 [4, 6] and labels [4]; its losses were computed once in numpy from the formulas."""
    i, j = np.arange(4)[:, None], np.arange(6)[None]
    z1 = np.sin(1 + 0.7 * i + 1.3 * j + 0.11 * i * j)
    z2 = np.cos(0.5 + 0.9 * i + 0.8 * j + 0.07 * i * j)
    return z1, z2, np.array([0, 1, 0, 2])


@pytest.fixture
def strategy_of():
    """A function of the number of replicas; one replica is TensorFlow's default strategy.

    The strategies are kept for the whole session: making the same one twice in a process shares
    collective keys.
    """

    def make(replicas):
        if replicas == 1:
            return tf.distribute.get_strategy()
        if replicas not in _STRATEGIES:
            devices = [f"CPU:{i}" for i in range(replicas)]
            # Strategies number their collective groups from this base; a process has one table.
            base = {"_collective_key_base": 1000 * replicas}
            kind = type("_Mirrored", (tf.distribute.MirroredStrategy,), base)
            _STRATEGIES[replicas] = kind(devices)
        return _STRATEGIES[replicas]

    return make


def _free_ports(count):
    """Ports of this machine that nobody listens on."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def start_workers():
    """A function that starts processes on this machine which train together.

    ``start_workers(count, script, *arguments)`` gives their ``Popen`` objects, in order; in the
    arguments ``{worker}`` becomes the worker's number. Processes that are left at the end of the
    test are killed.
    """
    started = []

    def start(count, script, *arguments):
        hosts = {"worker": [f"127.0.0.1:{port}" for port in _free_ports(count)]}
        workers = []
        for index in range(count):
            task = {"cluster": hosts, "task": {"type": "worker", "index": index}}
            mine = [str(argument).replace("{worker}", str(index)) for argument in arguments]
            environment = {
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "TF_CONFIG": json.dumps(task),
            }
            worker = subprocess.Popen(
                [sys.executable, "-c", script, *mine],
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            workers.append(worker)
        started.extend(workers)
        return workers

    yield start
    for worker in started:
        with worker:  # closes its pipes
            worker.kill()
