"""A strict and repeatable world for every test: four CPU devices, fixed seeds, no network."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import keras
import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)

_STRATEGIES = {}


@pytest.fixture(autouse=True)
def _fixed_seeds():
    keras.utils.set_random_seed(0)


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
