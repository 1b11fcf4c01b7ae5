"""Without the balance of Sinkhorn's iterations SwAV keeps few prototypes in use, with it most."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import data
from tfcontrast.methods import SwAV, SwAVConfig

TINY = {
    "num_local_views": 0, "proj_hidden_dim": 32, "proj_out_dim": 16, "num_prototypes": 16,
    "freeze_prototypes_steps": 0,
}  # fmt: skip


class WithoutBalance(SwAV):
    """Codes are each image's own sharpened scores."""

    def codes(self, scores, view, step):
        return tf.stop_gradient(tf.nn.softmax(scores / self.config.epsilon))


def moving_digits(batch_size=256):
    """Batches of two shifted and noisy views of the same digits, anew at every step."""
    images = data.open_source("digits", "train").images[:batch_size].astype(np.float32) / 255

    def batches():
        rng = np.random.default_rng(0)
        while True:
            views = [
                np.stack([np.roll(image, rng.integers(-1, 2, 2), (0, 1)) for image in images])
                for _ in range(2)
            ]
            yield tuple(
                (view + rng.normal(0, 0.05, view.shape)).astype(np.float32) for view in views
            )

    spec = tf.TensorSpec([batch_size, 8, 8, 3])
    numbers = tf.range(batch_size, dtype=tf.int64)
    return tf.data.Dataset.from_generator(batches, output_signature=(spec, spec)).map(
        lambda *views: {"views": views, "label": numbers, "index": numbers}
    )


@pytest.mark.parametrize("cls", [SwAV, WithoutBalance])
def test_balance_keeps_the_prototypes_in_use(tiny_backbone, cls):
    keras.utils.set_random_seed(0)
    config = SwAVConfig(**TINY)
    method = cls(tiny_backbone(), config)
    method.compile(optimizer=keras.optimizers.Adam(0.001), jit_compile=False)
    method.prepare(8)
    history = method.fit(
        moving_digits(), epochs=5, steps_per_epoch=10, shuffle=False, verbose=0
    ).history
    use = history["prototype_use"][-1]
    if cls is SwAV:
        assert use > 0.8
        assert history["code_entropy"][-1] < 0.9 * method.stuck_loss(256)
    else:
        assert use < 0.2
