"""A backbone that is traced in a second, and methods on it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import METHODS
from tfcontrast.models import BatchNorm

SIDE, CLASSES = 8, 4


class TinyBackbone(keras.Model):
    """Two strided convolutions with cross-replica batch norm; freezes whole, as group 4 does."""

    feature_dim = 6

    def __init__(self, dtype="float32"):
        super().__init__(name="backbone", dtype=dtype)
        same = {"padding": "same", "use_bias": False, "dtype": dtype}
        self.conv1 = keras.layers.Conv2D(4, 3, 2, name="conv1", **same)
        self.norm1 = BatchNorm(name="norm1", dtype=dtype)
        self.conv2 = keras.layers.Conv2D(self.feature_dim, 3, 2, name="conv2", **same)
        self.norm2 = BatchNorm(name="norm2", dtype=dtype)

    def call(self, images, training=False):
        x = tf.nn.relu(self.norm1(self.conv1(images), training=training))
        x = tf.nn.relu(self.norm2(self.conv2(x), training=training))
        x = x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
        return tf.reduce_mean(x, [1, 2])

    def freeze(self, last_group):
        self.trainable = last_group < 4


@pytest.fixture
def tiny_backbone():
    return TinyBackbone


@pytest.fixture
def make_method():
    """Builds a method under a strategy; every call with one seed starts from the same weights."""

    def make(
        name, *, strategy=None, optimizer=None, config=None, classes=CLASSES, seed=1, **options
    ):
        backbone = options.pop("backbone", TinyBackbone)
        dtype = options.pop("dtype", "float32")
        compiled = {"jit_compile": False, **options.pop("compile", {})}
        keras.utils.set_random_seed(seed)
        with (strategy or tf.distribute.get_strategy()).scope():
            method = METHODS[name](backbone(dtype=dtype), config, num_classes=classes, **options)
            make_optimizer = optimizer or (lambda: keras.optimizers.SGD(0.02, momentum=0.9))
            method.compile(optimizer=make_optimizer(), **compiled)
            method.prepare(SIDE)
        return method

    return make


@pytest.fixture
def batches():
    """An endless data set of one global batch: noisy copies of random images, labels 0 to 3."""

    def make(num_views, size=16, seed=0):
        rng = np.random.default_rng(seed)
        images = rng.random([size, SIDE, SIDE, 3])
        views = tuple(
            np.clip(images + rng.normal(0, 0.1, images.shape), 0, 1).astype(np.float32)
            for _ in range(num_views)
        )
        labels = np.arange(size, dtype=np.int64) % CLASSES
        batch = {"views": views, "label": labels, "index": np.arange(size, dtype=np.int64)}
        return tf.data.Dataset.from_tensor_slices(batch).batch(size, drop_remainder=True).repeat()

    return make


@pytest.fixture
def fit(batches):
    """Fits a method for some steps on that batch; returns the last step's logs."""

    def run(method, steps, *, size=16, callbacks=()):
        history = method.fit(
            batches(method.num_views, size),
            epochs=1,
            steps_per_epoch=steps,
            shuffle=False,
            verbose=0,
            callbacks=list(callbacks),
        )
        return {name: values[-1] for name, values in history.history.items()}

    return run
