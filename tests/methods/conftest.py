"""A backbone that is traced in a second, and methods on it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.data.digits import open_digits
from tfcontrast.methods import METHODS, Method, Plan
from tfcontrast.models import BatchNorm
from tfcontrast.optim import make_optimizer
from tfcontrast.train import checkpoints, state

SIDE, CLASSES = 8, 4
PLAN = Plan(batch_size=16, num_examples=16, steps_per_epoch=4, total_steps=40, seed=3)
# Options at the size of the backbone; a method that is not here takes its defaults.
SMALL = {
    "barlow_twins": {"proj_hidden_dim": 8, "proj_out_dim": 5, "bias_rate_scale": 0.5},
    "byol": {"proj_hidden_dim": 8, "proj_out_dim": 5, "pred_hidden_dim": 8, "ema_decay": 0.9},
    "simsiam": {"proj_hidden_dim": 8, "proj_out_dim": 5, "pred_hidden_dim": 8},
    "vicreg": {"proj_hidden_dim": 8, "proj_out_dim": 5},
    "moco_v3": {"proj_hidden_dim": 8, "proj_out_dim": 5, "pred_hidden_dim": 8, "ema_decay": 0.9},
    "deepcluster": {"num_prototypes": 4},
    "deepcluster_v2": {
        "num_local_views": 0, "proj_hidden_dim": 16, "proj_out_dim": 16, "num_prototypes": 4,
        "num_clusterings": 3,
    },
    "swav": {
        "num_local_views": 0, "proj_hidden_dim": 16, "proj_out_dim": 16, "num_prototypes": 6,
        "freeze_prototypes_steps": 0, "queue_size": 32, "queue_start_epoch": 0,
    },
    # Everything moves, from the first step on; the temperatures do not blow rounding up.
    "dino": {
        "num_proj_layers": 2, "proj_hidden_dim": 8, "proj_out_dim": 5, "num_prototypes": 7,
        "norm_last_layer": False, "freeze_last_layer_epochs": 0, "ema_decay": 0.9,
        "temperature": 0.5, "teacher_temperature_start": 0.2, "teacher_temperature": 0.3,
    },
    "instdisc": {"proj_out_dim": 5, "num_negatives": 24, "temperature": 0.2},
    "nnclr": {
        "queue_size": 24,
        "num_proj_layers": 2,
        "proj_hidden_dim": 16,
        "proj_out_dim": 16,
        "pred_hidden_dim": 16,
    },
    "densecl": {"queue_size": 24, "proj_hidden_dim": 8, "proj_out_dim": 5, "ema_decay": 0.9},
    "moco": {"queue_size": 24, "proj_out_dim": 5, "temperature": 0.2, "ema_decay": 0.9},
}  # fmt: skip
# Small rates: five steps do not blow rounding up.
OPTIMIZERS = {
    "lars": lambda: make_optimizer("lars", learning_rate=0.02, weight_decay=1e-4, momentum=0.9),
    "sgd": lambda: make_optimizer("sgd", learning_rate=0.0001, weight_decay=1e-4, momentum=0.9),
}


class TinyBackbone(keras.Model):
    """Two strided convolutions with cross-replica batch norm; freezes whole, as group 4 does."""

    feature_dim = 6
    num_groups = 4

    def __init__(self, dtype="float32"):
        super().__init__(name="backbone", dtype=dtype)
        same = {"padding": "same", "use_bias": False, "dtype": dtype}
        self.conv1 = keras.layers.Conv2D(4, 3, 2, name="conv1", **same)
        self.norm1 = BatchNorm(name="norm1", dtype=dtype)
        self.conv2 = keras.layers.Conv2D(self.feature_dim, 3, 2, name="conv2", **same)
        self.norm2 = BatchNorm(name="norm2", dtype=dtype)

    def endpoints(self, images, training=False):
        x = tf.nn.relu(self.norm1(self.conv1(images), training=training))
        x = tf.nn.relu(self.norm2(self.conv2(x), training=training))
        wide = x if x.dtype == tf.float64 else tf.cast(x, tf.float32)
        return {"group4": x, "features": tf.reduce_mean(wide, [1, 2])}

    def call(self, images, training=False):
        return self.endpoints(images, training)["features"]

    def get_config(self):
        return {"dtype": self.dtype_policy.name}

    def freeze(self, last_group):
        self.trainable = last_group < 4


class DenseBackbone(keras.Model):
    """A dense layer on the colours' means, traced sooner still: where the network is no matter."""

    feature_dim = 6

    def __init__(self, dtype="float32"):
        super().__init__(name="backbone", dtype=dtype)
        self.dense = keras.layers.Dense(self.feature_dim, dtype=dtype, name="dense")

    def call(self, images, training=False):
        return self.dense(tf.reduce_mean(images, [1, 2]))

    def get_config(self):
        return {"dtype": self.dtype_policy.name}


@pytest.fixture
def tiny_backbone():
    return TinyBackbone


@pytest.fixture
def dense_backbone():
    return DenseBackbone


def build_method(
    name, *, strategy=None, optimizer=None, config=None, classes=CLASSES, seed=1, **options
):
    """Builds a method under a strategy; every call with one seed starts from the same weights.

    ``changes`` go over the small options.
    """
    backbone = options.pop("backbone", TinyBackbone)
    dtype = options.pop("dtype", "float32")
    compiled = {"jit_compile": False, **options.pop("compile", {})}
    changes = options.pop("changes", {})
    if config is None:
        config = METHODS[name].Config(**{**SMALL.get(name, {}), **changes})
    make = OPTIMIZERS.get(optimizer, optimizer) or (
        lambda: keras.optimizers.SGD(0.02, momentum=0.9)
    )
    keras.utils.set_random_seed(seed)
    with (strategy or tf.distribute.get_strategy()).scope():
        options.setdefault("plan", PLAN)
        method = METHODS[name](backbone(dtype=dtype), config, num_classes=classes, **options)
        method.compile(optimizer=make(), **compiled)
        method.prepare(SIDE)
    if type(method).begin_epoch is not Method.begin_epoch:
        images = global_batch(1, method.plan.num_examples)["views"][0]
        method.begin_epoch(0, lambda function: np.asarray(function(tf.constant(images))))
    return method


def global_batch(num_views, size=16, seed=0):
    """Noisy copies of random images, labels 0 to 3, as arrays."""
    rng = np.random.default_rng(seed)
    images = rng.random([size, SIDE, SIDE, 3])
    views = tuple(
        np.clip(images + rng.normal(0, 0.1, images.shape), 0, 1).astype(np.float32)
        for _ in range(num_views)
    )
    label = np.arange(size, dtype=np.int64) % CLASSES
    return {"views": views, "label": label, "index": np.arange(size, dtype=np.int64)}


def endless(num_views, size=16, seed=0):
    """An endless data set of that one global batch."""
    batch = tf.data.Dataset.from_tensor_slices(global_batch(num_views, size, seed))
    return batch.batch(size, drop_remainder=True).repeat()


def shares(strategy, num_views, size=16):
    """The same in each process's part, a batch for each of its replicas in turn."""

    def make(context):
        first, count, replicas = distribute.worker_share(context)
        rows = size // replicas
        mine = slice(first * rows, (first + count) * rows)
        part = tf.nest.map_structure(lambda values: values[mine], global_batch(num_views, size))
        return tf.data.Dataset.from_tensor_slices(part).batch(rows, drop_remainder=True).repeat()

    return strategy.distribute_datasets_from_function(make)


def fit_method(method, steps, *, size=16, callbacks=()):
    """Fits a method for some steps on that batch; returns the last step's logs."""
    strategy, views = method.distribute_strategy, method.num_views
    alone = strategy.num_replicas_in_sync == 1
    history = method.fit(
        endless(views, size) if alone else shares(strategy, views, size),
        epochs=1,
        steps_per_epoch=steps,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return {name: values[-1] for name, values in history.history.items()}


def noisy_digits(seed=0, size=64):
    """An endless data set of two views of real digits: darkened by chance, and noise over them."""
    source = open_digits("train")
    images = tf.constant(source.images[:256].astype(np.float32) / 255)

    def batch(step):
        step = tf.cast(step, tf.int32)
        chosen = tf.random.stateless_uniform([size], [seed, step], 0, 256, tf.int32)

        def view(number):
            key = [seed + number, step]
            light = tf.random.stateless_uniform([size, 1, 1, 1], key, 0.3, 1.0)
            noise = tf.random.stateless_normal([size, SIDE, SIDE, 3], key, stddev=0.2)
            return tf.clip_by_value(light * tf.gather(images, chosen) + noise, 0, 1)

        label = tf.zeros([size], tf.int64)
        return {"views": (view(1), view(2)), "label": label, "index": label}

    return tf.data.Dataset.range(10**6).map(batch)


@pytest.fixture
def fit_digits():
    """A function that trains a built method on ``noisy_digits``; the means of the last 50 steps."""

    def run(method, steps):
        history = method.fit(
            noisy_digits(), epochs=steps // 50, steps_per_epoch=50, shuffle=False, verbose=0
        )
        return {name: values[-1] for name, values in history.history.items()}

    return run


def put_back(method, start, *, seed=1):
    """Makes a method that has taken steps what it was when ``values`` gave its ``start``.

    Its train function stays, and with it the trace, which costs more than all steps of a test.
    """
    checkpoints.restore(state.full_state(method), start, source="memory", whole=True)
    keras.utils.set_random_seed(seed)  # as a method is left by its building


# These hold nothing: fixtures that keep a traced method for several tests may use them.
@pytest.fixture(scope="session")
def make_method():
    """``build_method``; an optimizer is "lars", "sgd" or a function that makes one."""
    return build_method


@pytest.fixture(scope="session")
def batches():
    """``endless``, a function of the number of views."""
    return endless


@pytest.fixture(scope="session")
def fit():
    """``fit_method``."""
    return fit_method


@pytest.fixture(scope="session", name="put_back")
def _put_back():
    """``put_back``."""
    return put_back


@pytest.fixture
def golden_views():
    """The worked example of the losses' tests: z1, z2 [4, 6], and five unit rows [5, 6]."""
    i, j = np.arange(4)[:, None], np.arange(6)[None]
    z1 = np.sin(1 + 0.7 * i + 1.3 * j + 0.11 * i * j)
    z2 = np.cos(0.5 + 0.9 * i + 0.8 * j + 0.07 * i * j)
    stored = np.sin(0.3 + 0.5 * np.arange(5)[:, None] + 1.7 * j)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    return tuple(tf.constant(rows, tf.float32) for rows in (z1, z2, stored))
