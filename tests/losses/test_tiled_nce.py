import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import full_softmax, in_batch_info_nce, info_nce

RNG = np.random.default_rng(0)
Q, K, QUEUE = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 4)), RNG.normal(size=(11, 4))
PLACES = tf.constant([3, 1, 10, 0, 3, 7])

LOSSES = {
    "queue": lambda q, k, n: info_nce(q, k, n, temperature=0.07),
    "batch": lambda q, k, n: in_batch_info_nce(q, k, temperature=0.1, scale="twice_temperature"),
    "keys": lambda q, k, n: in_batch_info_nce(q, k, temperature=0.1, gradient_to="keys"),
    "shard": lambda q, k, n: in_batch_info_nce(
        q[2:5], k[2:5], temperature=0.1, gradient_to="keys", candidates=k, first_row=tf.constant(2)
    ),
    "bank": lambda q, k, n: full_softmax(q, n, PLACES, temperature=0.1),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("compiled", [None, "graph", "xla"])
def test_value_and_gradients_are_those_of_the_dense_form(
    small_tiles, value_and_gradients, monkeypatch, name, compiled
):
    tiled = value_and_gradients(LOSSES[name], Q, K, QUEUE, compiled=compiled)
    single = value_and_gradients(LOSSES[name], Q, K, QUEUE, dtype="float32", compiled=compiled)
    monkeypatch.undo()
    dense = value_and_gradients(LOSSES[name], Q, K, QUEUE)
    assert sum(g is not None for g in dense[1:]) == 1
    for one, half, other in zip(tiled, single, dense, strict=True):
        assert (one is None) == (half is None) == (other is None)
        if other is not None:
            np.testing.assert_allclose(one, other, atol=1e-10)
            np.testing.assert_allclose(half, other, atol=1e-5)
