"""Views of several sizes: one forward pass a size, rows by view, statistics by size."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import BatchNorm, ResNet, forward_views

BATCH = 3


def views_of(*sides, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(tf.constant(rng.random([BATCH, s, s, 3]), tf.float32) for s in sides)


class Recording:
    """The images' means; remembers how it was called."""

    def __init__(self, **attributes):
        self.calls = []
        self.__dict__.update(attributes)

    def __call__(self, images, **options):
        self.calls.append((tuple(images.shape), options))
        return tf.reduce_mean(images, [1, 2])


@pytest.mark.parametrize(
    ("sides", "passes"),
    [
        ((8, 8), [(6, 8)]),
        ((8,), [(3, 8)]),
        ((8, 8, 4, 4, 4), [(6, 8), (9, 4)]),
        ((8, 4, 6, 6), [(3, 8), (3, 4), (6, 6)]),
        ((8, 4, 8), [(3, 8), (3, 4), (3, 8)]),  # equal sizes apart: the rows' order comes first
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_one_forward_a_size_and_rows_by_view(sides, passes, training):
    network, views = Recording(), views_of(*sides)
    rows = forward_views(network, views, training)
    expected = [((count, side, side, 3), {"training": training}) for count, side in passes]
    assert network.calls == expected
    assert rows.shape == (BATCH * len(sides), 3)
    for number, view in enumerate(views):
        mine = rows[number * BATCH : (number + 1) * BATCH]
        np.testing.assert_allclose(mine, tf.reduce_mean(view, [1, 2]), rtol=1e-6)


def test_a_side_alone_makes_another_size():
    network = Recording()
    wide, high = tf.zeros([BATCH, 4, 8, 3]), tf.zeros([BATCH, 8, 4, 3])
    forward_views(network, (wide, high))
    assert [shape for shape, _ in network.calls] == [(3, 4, 8, 3), (3, 8, 4, 3)]


@pytest.mark.parametrize("needs_seed", [True, False])
def test_the_seed_and_the_views_go_to_networks_that_need_them(needs_seed):
    network, seed = Recording(needs_seed=needs_seed), tf.constant([3, 7])
    forward_views(network, views_of(8, 8, 4), True, seed=seed)
    said = [options for _, options in network.calls]
    if not needs_seed:
        assert said == [{"training": True}] * 2
        return
    assert [options["views"] for options in said] == [2, 1]
    assert all(options["seed"] is seed for options in said)
    forward_views(network, views_of(8, 8), True)
    assert network.calls[-1][1] == {"training": True, "seed": None, "views": 2}


def test_batch_norm_takes_the_statistics_of_each_size_apart():
    norm = BatchNorm(momentum=0.9, epsilon=1e-5, center=False, scale=False)

    def network(images, training):
        return norm(tf.reduce_mean(images, [1, 2]), training=training)

    large, larger, small = views_of(8, 8, 4)
    small = 5 * small + 1  # far away: its statistics would show in the others' rows
    rows = forward_views(network, (large, larger, small), True).numpy()
    means = [
        np.concatenate([np.mean(view, (1, 2)) for view in same]).astype(np.float64)
        for same in ((large, larger), (small,))
    ]
    wanted = [(x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) for x in means]
    np.testing.assert_allclose(rows, np.concatenate(wanted), atol=1e-3)
    # moved once a size, in the views' order
    moving = np.zeros(3)
    for x in means:
        moving = 0.9 * moving + 0.1 * x.mean(0)
    np.testing.assert_allclose(norm.moving_mean, moving, rtol=1e-5)


def test_in_inference_mode_a_residual_network_gives_each_view_its_own_rows():
    keras.utils.set_random_seed(1)
    network = ResNet(depth=10, width_multiplier=0.05, stem="cifar_stride2")
    views = views_of(16, 16, 8, 8)
    rows = forward_views(network, views)
    expected = tf.concat([network(view, training=False) for view in views], 0)
    np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-6)
    assert np.std(expected) > 1e-3
