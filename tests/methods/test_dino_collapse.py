"""Section 5.3 of the paper: without centring or without sharpening the teacher collapses.

Each in its own way: without centring to one output (entropy 0), without sharpening to the uniform
distribution (entropy log K, divergence 0).
"""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import data
from tfcontrast.methods import DINOConfig

PROTOTYPES, BATCH = 32, 64
HEALTHY = {
    "num_proj_layers": 2,
    "proj_hidden_dim": 32,
    "proj_out_dim": 16,
    "num_prototypes": PROTOTYPES,
    "freeze_last_layer_epochs": 0,
    "teacher_temperature_epochs": 0,
    "teacher_temperature": 0.04,
    "ema_decay": 0.9,
    "ema_schedule": "constant",
}


@pytest.fixture(scope="module")
def stream():
    """Shifted, faded and noisy views of 256 digits."""
    source = data.open_source("digits", "train")
    images = source.images[:256] / np.float32(255)
    rng = np.random.default_rng(0)

    def view(chosen):
        moved = np.roll(chosen, rng.integers(-1, 2, 2), (1, 2)) * rng.uniform(0.7, 1.3)
        return np.clip(moved + rng.normal(0, 0.1, moved.shape), 0, 1).astype(np.float32)

    rows = [rng.choice(256, BATCH, replace=False) for _ in range(150)]
    views = [np.stack([view(images[chosen]) for chosen in rows]) for _ in range(2)]
    label = np.stack([source.labels[chosen] for chosen in rows])
    batch = {"views": tuple(views), "label": label, "index": np.stack(rows)}
    return tf.data.Dataset.from_tensor_slices(batch)


@pytest.fixture
def last_epoch(make_method, stream):
    """Trains 150 steps with these options; gives the means over the last 50."""

    def run(**options):
        method = make_method(
            "dino",
            config=DINOConfig(**{**HEALTHY, **options}),
            optimizer=lambda: keras.optimizers.Adam(0.01),
            classes=0,
        )
        history = method.fit(stream, epochs=3, steps_per_epoch=50, shuffle=False, verbose=0)
        return {name: values[-1] for name, values in history.history.items()}

    return run


def test_centring_and_sharpening_together_do_not_collapse(last_epoch):
    logs = last_epoch()
    assert 0.1 * math.log(PROTOTYPES) < logs["teacher_entropy"] < 0.8 * math.log(PROTOTYPES)
    assert logs["teacher_student_kl"] > 0.1
    assert logs["center_norm"] > 0.1


def test_without_centring_one_output_wins(last_epoch):
    logs = last_epoch(center_momentum=1.0)
    assert logs["teacher_entropy"] < 0.01
    assert logs["loss"] < 0.01
    assert logs["center_norm"] == 0


def test_without_sharpening_the_outputs_become_uniform(last_epoch):
    logs = last_epoch(teacher_temperature=0.5)
    assert logs["teacher_entropy"] == pytest.approx(math.log(PROTOTYPES), rel=1e-3)
    assert logs["teacher_student_kl"] < 0.01
    assert logs["loss"] == pytest.approx(math.log(PROTOTYPES), rel=1e-3)
