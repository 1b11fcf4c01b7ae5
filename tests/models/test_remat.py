"""Blocks that are run again on the way back: the same values, gradients and statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import ResNet, VisionTransformer
from tfcontrast.models.remat import rematerialized

NETWORKS = {
    "basic": lambda **options: ResNet(
        depth=10, width_multiplier=0.125, stem="cifar", se_ratio=0.25, **options
    ),
    "bottleneck": lambda **options: ResNet(
        depth=50, width_multiplier=1 / 32, stem="cifar_stride2", sk_ratio=0.0625, **options
    ),
    "transformer": lambda **options: VisionTransformer(
        width=8, depth=3, num_heads=2, patch_size=4, image_size=16, drop_path_rate=0.5, **options
    ),
}


def make_pair(name, **options):
    """A network that keeps its activations and one that does not, with equal scattered weights."""
    pair = [NETWORKS[name](remat=remat, name=f"n{remat:d}", **options) for remat in (False, True)]
    rng = np.random.default_rng(0)
    for model in pair:
        model.build((None, None, None, 3))
    for first, second in zip(*(model.variables for model in pair), strict=True):
        low = 0.5 if first.name in ("gamma", "moving_variance") else -0.3
        first.assign(rng.uniform(low, low + 0.6, first.shape))
        second.assign(first)
    return pair


def images_of(rows=8, dtype="float64"):
    return tf.constant(np.random.default_rng(1).random((rows, 16, 16, 3)), dtype)


def step_of(model):
    seeded = {"seed": tf.constant([3, 4])} if getattr(model, "needs_seed", False) else {}

    def step(images, weights):
        with tf.GradientTape() as tape:
            tape.watch(images)
            features = model(images, training=True, **seeded)
            loss = tf.reduce_sum(features * weights)
        return features, *tape.gradient(loss, [images, *model.trainable_variables])

    return step


def weights_of(model, rows=8, dtype="float64"):
    return tf.constant(np.random.default_rng(2).normal(size=(rows, model.feature_dim)), dtype)


def assert_same(found, expected, tolerance):
    for ours, theirs in zip(found, expected, strict=True):
        scale = max(1e-3, np.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=tolerance * scale)


@pytest.mark.parametrize("how", ["eager", "graph"])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_gradients_and_statistics_are_those_of_the_kept_activations(name, how):
    kept, again = make_pair(name, dtype="float64")
    images, weights = images_of(), weights_of(kept)
    before = [v.numpy() for v in again.non_trainable_variables]
    wrap = tf.function if how == "graph" else lambda f: f
    assert_same(wrap(step_of(again))(images, weights), wrap(step_of(kept))(images, weights), 1e-11)
    assert_same(again.non_trainable_variables, kept.non_trainable_variables, 1e-12)
    if name != "transformer":
        moved = zip(again.non_trainable_variables, before, strict=True)
        assert all(np.abs(v - old).max() > 1e-6 for v, old in moved)


@pytest.mark.parametrize("replicas", [2, 4])
def test_on_any_number_of_replicas(strategy_of, replicas):
    kept, _ = make_pair("basic", dtype="float64")
    strategy = strategy_of(replicas)
    with strategy.scope():
        again = NETWORKS["basic"](remat=True, name="again", dtype="float64")
        again.build((None, None, None, 3))
    again.set_weights(kept.get_weights())
    whole = (images_of(), weights_of(kept))
    expected = step_of(kept)(*whole)
    shares = [
        strategy.experimental_distribute_values_from_function(
            lambda context, rows=rows: rows[context.replica_id_in_sync_group]
        )
        for rows in (tf.split(part, replicas) for part in whole)
    ]
    step = step_of(again)
    found = tf.function(lambda *args: strategy.run(step, args=args))(*shares)
    parts = [strategy.experimental_local_results(value) for value in found]
    rows = [tf.concat(part, 0) for part in parts[:2]]
    assert_same([*rows, *(tf.add_n(part) for part in parts[2:])], expected, 1e-10)
    assert_same(again.non_trainable_variables, kept.non_trainable_variables, 1e-12)


@pytest.mark.parametrize("name", ["basic", "transformer"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_in_the_precisions_of_training(name, dtype):
    kept, again = make_pair(name, dtype=dtype)
    images, weights = images_of(dtype="float32"), weights_of(kept, dtype="float32")
    expected = tf.function(step_of(kept))(images, weights)
    assert_same(tf.function(step_of(again))(images, weights), expected, 1e-4)


@pytest.mark.parametrize("name", ["basic", "transformer"])
def test_xla_gives_the_same(name):
    kept, again = make_pair(name)
    images, weights = images_of(dtype="float32"), weights_of(kept, dtype="float32")
    expected = tf.function(step_of(kept))(images, weights)
    assert_same(tf.function(step_of(again), jit_compile=True)(images, weights), expected, 2e-3)


def matmuls_and_convolutions(model):
    step = tf.function(step_of(model))
    graph = step.get_concrete_function(images_of(), weights_of(model)).graph
    kinds = ("Conv2D", "MatMul", "BatchMatMulV2")
    return sum(op.type in kinds for op in graph.get_operations())


def test_every_block_is_run_again():
    kept, again = make_pair("basic", dtype="float64")
    # Four blocks of two convolutions and squeeze-and-excitation's two, and three projections.
    assert matmuls_and_convolutions(again) - matmuls_and_convolutions(kept) == 4 * 4 + 3


def test_nothing_is_run_again_without_a_gradient():
    runs = []
    layer = keras.layers.Dense(2)
    layer.build((None, 3))

    def run(x):
        runs.append(x)
        return layer(x)

    rows = tf.ones([2, 3])
    rematerialized(run, rows)
    assert len(runs) == 1
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(rematerialized(run, rows))
    assert len(runs) == 2
    tape.gradient(loss, layer.kernel)
    assert len(runs) == 3
