"""What batch norm tells of an image's key, and that shuffling keeps it from telling."""

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.methods import MoCo, MoCoConfig, Plan
from tfcontrast.models import BatchNorm


class Grouped(keras.Model):
    """Two convolutions with batch norm over groups of two images."""

    feature_dim = 32

    def __init__(self, splits):
        super().__init__(name="backbone")
        self.batch_norm_splits = splits
        same = {"padding": "same", "use_bias": False}
        self.conv1 = keras.layers.Conv2D(16, 3, 2, name="conv1", **same)
        self.norm1 = BatchNorm(name="norm1", splits=splits)
        self.conv2 = keras.layers.Conv2D(32, 3, 2, name="conv2", **same)
        self.norm2 = BatchNorm(name="norm2", splits=splits)

    def call(self, images, training=False):
        x = tf.nn.relu(self.norm1(self.conv1(images), training=training))
        x = tf.nn.relu(self.norm2(self.conv2(x), training=training))
        return tf.reduce_mean(x, [1, 2])

    def get_config(self):
        return {"splits": self.batch_norm_splits}


def strangers(seed, steps, rows=32, group=2):
    """Views of images drawn apart from each other, where each "key" is the *next image's* view.

    Nothing about it can be known from the query's image, only from what normalises both.
    """
    rng = np.random.default_rng(seed)
    elements = []
    for _ in range(steps):
        images = 0.6 * rng.random([rows, 1, 1, 3]) + 0.4 * rng.random([rows, 8, 8, 3])
        first, second = (images + rng.normal(0, 0.02, images.shape) for _ in range(2))
        second = np.roll(second.reshape(-1, group, 8, 8, 3), 1, 1).reshape(images.shape)
        elements.append((first.astype(np.float32), second.astype(np.float32)))
    views = tuple(np.stack(view) for view in zip(*elements, strict=True))
    zeros = np.zeros([steps, rows], np.int64)
    return tf.data.Dataset.from_tensor_slices({"views": views, "label": zeros, "index": zeros})


def test_without_shuffling_the_statistics_give_the_key_away():
    loss, accuracy = {}, {}
    for shuffle_bn in (True, False):
        keras.utils.set_random_seed(1)
        config = MoCoConfig(
            queue_size=128, proj_out_dim=16, num_proj_layers=2, temperature=0.2,
            ema_decay=0.99, shuffle_bn=shuffle_bn,
        )  # fmt: skip
        method = MoCo(Grouped(16), config, plan=Plan(batch_size=32, seed=1))
        method.compile(keras.optimizers.Adam(0.01), jit_compile=False)
        method.prepare(8)
        method.fit(strangers(1, 120), shuffle=False, verbose=0)
        history = method.fit(strangers(2, 30), shuffle=False, verbose=0).history
        loss[shuffle_bn] = history["loss"][-1]
        hits = []
        for batch in strangers(3, 10):
            queries = method(batch["views"], training=True)["queries"]
            keys = method.targets(batch["views"], training=True)["keys"]
            cosines = losses.unit_rows(queries) @ tf.transpose(losses.unit_rows(keys))
            hits.append(np.mean(np.argmax(cosines, 1) == np.arange(32)))
        accuracy[shuffle_bn] = np.mean(hits)
    # Seeds 1 and 2: losses 4.39 and 4.38 against 3.55 and 3.30; the key is found among the 32 of
    # its batch by 7 and 9 % against 36 and 52 %, where chance is 3 %.
    assert loss[False] < 3.9 < 4.2 < loss[True]
    assert accuracy[True] < 0.15 < 0.25 < accuracy[False]
