"""A run of a few seconds: 8x8 digits, a ResNet-10 of 6 channels, 5 steps an epoch."""

import importlib.util
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.train import build, checkpoints, state
from tfcontrast.train.options import make_config

TINY = {
    "method": "simclr",
    "dataset": "digits",
    "train_split": "test",  # the smaller one: 359 images, 323 without the held-out ones
    "eval_split": "test",
    "holdout_fraction": 0.1,
    "image_size": 8,
    "augmentation": "crop_flip",
    "resnet_depth": 10,
    "width_multiplier": 0.1,
    "stem": "cifar_stride2",
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "warmup_epochs": 1.0,
    "train_batch_size": 64,
    "train_steps": 12,
    "checkpoint_steps": 1,
    "keep_checkpoint_max": 100,
    "monitor_epochs": 1,
    "knn_k": 5,
}


@pytest.fixture(scope="session")
def tiny_config():
    def make(**options):
        return make_config({**TINY, **options})

    return make


def _beside(name):
    """A module of this folder, which is no package and not on the path."""
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PLAIN_VIEWS = _beside("plain_views")


@pytest.fixture(scope="module", autouse=True)
def _plain_views():
    with pytest.MonkeyPatch.context() as patch:
        PLAIN_VIEWS.use(patch.setattr)
        yield


@pytest.fixture
def start_workers(start_workers, monkeypatch):
    """The same; what it starts can import this folder's modules."""
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parent)
    return start_workers


@pytest.fixture(scope="session")
def build_run():
    """A run's data and its method, built under a strategy."""

    def make(config, strategy):
        data = build.open_data(config)
        with strategy.scope():
            return build.build_method(config, data), data

    return make


@pytest.fixture(scope="session")
def arrays_of():
    """A method's whole state as NumPy arrays of their own."""

    def read(method):
        return {k: v.copy() for k, v in state.values(state.full_state(method)).items()}

    return read


@pytest.fixture(scope="session")
def scramble():
    """Fills a method's state with other numbers, the step included."""

    def fill(method):
        rng = np.random.default_rng(9)
        for variable in state.full_state(method).values():
            value = rng.integers(1, 50, variable.shape) / 7
            variable.assign(value.astype(variable.dtype))

    return fill


@pytest.fixture
def saved_run(tiny_config, build_run, strategy_of, tmp_path):
    """The folder of a run with one checkpoint: random weights, real batch-norm statistics."""

    def make(folder=None, **options):
        config = tiny_config(**options)
        method, data = build_run(config, strategy_of(1))
        images = tf.constant(data.train.images[:64] / np.float32(255))
        for _ in range(10):
            method.backbone(images, training=True)  # statistics as after training
        folder = folder or tmp_path / "pretrained"
        checkpoints.write_checkpoint(
            folder / "checkpoints",
            state.values(state.full_state(method)),
            step=3,
            config=build.resolved_options(config, data),
        )
        return folder, method, data

    return make
