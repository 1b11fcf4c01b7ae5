"""Two replicas with their own rows give the value and the gradients of one with all rows."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.losses import (
    barlow_twins,
    cluster_cross_entropy,
    dino_loss,
    estimate_log_normalizer,
    in_batch_info_nce,
    nt_xent,
    sinkhorn,
    supcon,
    swav_loss,
    teacher_probabilities,
    update_center,
    vicreg,
)

B, D = 8, 5


def both(z1, z2):
    """The options of a two-view loss on every replica."""
    pool = (distribute.gather(z1), distribute.gather(z2))
    return {"candidates": pool, "first_row": distribute.first_row(z1)}


def moco_v3(q, k):
    place = {"candidates": distribute.gather(k), "first_row": distribute.first_row(q)}
    return in_batch_info_nce(q, k, temperature=0.2, scale="twice_temperature", **place)


def nnclr(nn, p):
    place = {"candidates": distribute.gather(p), "first_row": distribute.first_row(nn)}
    return in_batch_info_nce(nn, p, temperature=0.2, gradient_to="keys", **place)


def swav(s1, s2):
    views = [s1, s2, 0.5 * s2 + 0.1 * s1]
    return swav_loss(views, [sinkhorn(s1), sinkhorn(s2)])


def dino(s1, s2):
    center = update_center(tf.zeros([D], s1.dtype), tf.concat([s1, s2], 0), momentum=0.5)
    goals = [teacher_probabilities(s, center, temperature=0.5) for s in (s1, s2)]
    return dino_loss([s1, s2], goals)


def deep_cluster(s1, s2):
    """Most unknown images stand on the first replica."""
    every = tf.constant([-1, -1, 3, -1, 2, 0, 1, 4])
    targets = tf.gather(every, distribute.first_row(s1) + tf.range(s1.shape[0]))
    return cluster_cross_entropy([tf.concat([s1, s2], 0)], [targets])


LOSSES = {
    "moco_v3": moco_v3,
    "nnclr": nnclr,
    "barlow_twins": lambda a, b: barlow_twins(a, b, **both(a, b)),
    "vicreg": lambda a, b: vicreg(a, b, **both(a, b)),
    "swav": swav,
    "dino": dino,
    "deep_cluster": deep_cluster,
}


def results(strategy, replicas, function, arrays):
    """What ``function`` gives on every replica, fed with equal blocks of rows."""
    size = B // replicas

    def rows(array):
        def block(context):
            start = size * context.replica_id_in_sync_group
            return tf.constant(array[start : start + size])

        return strategy.experimental_distribute_values_from_function(block)

    step = tf.function(lambda *rows: strategy.run(function, args=rows))
    outputs = step(*map(rows, arrays))
    return [[x.numpy() for x in strategy.experimental_local_results(o)] for o in outputs]


@pytest.mark.parametrize("name", LOSSES)
def test_two_replicas_give_the_value_and_gradients_of_one(strategy_of, random_views, name):
    arrays = random_views(B, D)
    outcomes = []
    for replicas in (1, 2):

        def step(*rows, replicas=replicas):
            with tf.GradientTape() as tape:
                tape.watch(rows)
                share = LOSSES[name](*rows) / replicas
            return share, *tape.gradient(share, rows, unconnected_gradients="zero")

        values, *gradients = results(strategy_of(replicas), replicas, step, arrays)
        outcomes.append([sum(values), *(np.concatenate(g) for g in gradients)])
    assert any(np.abs(gradient).max() > 1e-3 for gradient in outcomes[0][1:])
    for one, two in zip(*outcomes, strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-11)


def supervised(z1, z2):
    labels = tf.gather(
        tf.constant([0, 1, 0, 2, -1, 1, 0, -1]), distribute.first_row(z1) + tf.range(z1.shape[0])
    )
    views = tf.stack([z1, z2], 1)
    pool = (distribute.gather(views), distribute.gather(labels))
    return supcon(views, labels, candidates=pool, first_row=distribute.first_row(z1))


TILED = {
    "nt_xent": lambda a, b: nt_xent(a, b, **both(a, b)),
    "supcon": supervised,
    "moco_v3": moco_v3,
    "nnclr": nnclr,
}


@pytest.mark.parametrize("name", TILED)
def test_in_tiles_two_replicas_give_the_value_and_gradients_of_one(
    strategy_of, random_views, small_tiles, monkeypatch, name
):
    monkeypatch.setitem(LOSSES, name, TILED[name])
    test_two_replicas_give_the_value_and_gradients_of_one(strategy_of, random_views, name)


def test_every_replica_gets_the_same_state(strategy_of, random_views):
    logits, features = random_views(B, D)
    bank = np.random.default_rng(1).normal(size=(9, D))

    def state(t, v):
        numbers = distribute.first_row(v) + tf.range(v.shape[0])
        noise = tf.stack([numbers // 2, numbers // 3], axis=1)
        log_z = estimate_log_normalizer(v, bank, numbers, noise, temperature=0.2)
        return update_center(tf.ones([D], tf.float64), t), log_z

    one = results(strategy_of(1), 1, state, (logits, features))
    two = results(strategy_of(2), 2, state, (logits, features))
    for (expected,), values in zip(one, two, strict=True):
        for value in values:
            np.testing.assert_allclose(value, expected, rtol=1e-12)
