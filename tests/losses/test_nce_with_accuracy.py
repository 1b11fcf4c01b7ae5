import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import (
    contrastive_accuracy,
    in_batch_info_nce,
    in_batch_info_nce_with_accuracy,
    in_batch_logits,
    info_nce,
    info_nce_logits,
    info_nce_with_accuracy,
)

RNG = np.random.default_rng(0)
Q, QUEUE = RNG.normal(size=(9, 3)), RNG.normal(size=(5, 3))
K = Q + 0.7 * RNG.normal(size=(9, 3))


@pytest.fixture(params=["dense", "tiled"])
def form(request):
    """Both forms of every loss."""
    if request.param == "tiled":
        request.getfixturevalue("small_tiles")


def test_queue(form):
    loss, accuracy = info_nce_with_accuracy(Q, K, QUEUE, temperature=0.2)
    logits = info_nce_logits(Q, K, QUEUE, temperature=0.2)
    assert float(loss) == pytest.approx(float(info_nce(Q, K, QUEUE, temperature=0.2)), abs=1e-12)
    expected = np.mean(np.argmax(logits, axis=1) == 0)
    assert 0 < expected < 1
    assert float(accuracy) == float(contrastive_accuracy(logits)) == pytest.approx(expected)


@pytest.mark.parametrize("scale", ["none", "twice_temperature"])
@pytest.mark.parametrize("rows", [slice(0, 9), slice(3, 7)])
def test_batch(form, scale, rows):
    where = {"temperature": 0.2, "candidates": K, "first_row": rows.start, "gradient_to": "keys"}
    loss, accuracy = in_batch_info_nce_with_accuracy(Q[rows], K[rows], scale=scale, **where)
    expected = in_batch_info_nce(Q[rows], K[rows], scale=scale, **where)
    assert float(loss) == pytest.approx(float(expected), abs=1e-12)
    logits, targets = in_batch_logits(Q[rows], K[rows], **where)
    expected = np.mean(np.argmax(logits, axis=1) == targets)
    assert 0 < expected < 1
    assert float(accuracy) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_a_collapsed_encoder_finds_nothing(form, seed):
    row = np.random.default_rng(seed).normal(size=(1, 128)).astype(np.float32)
    rows = tf.constant(np.repeat(row, 8, axis=0))
    _, accuracy = in_batch_info_nce_with_accuracy(rows, rows, temperature=0.07)
    assert float(accuracy) == 0


def test_the_accuracy_has_no_gradient(form):
    q = tf.constant(Q)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(q)
        _, queue = info_nce_with_accuracy(q, K, QUEUE, temperature=0.2)
        _, batch = in_batch_info_nce_with_accuracy(q, K, temperature=0.2)
    assert tape.gradient(queue, q) is None
    assert tape.gradient(batch, q) is None
