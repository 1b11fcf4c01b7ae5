"""Blocks that are run again on the way back: the same values, gradients and statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import ResNet, VisionTransformer, resnet
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


@pytest.fixture(autouse=True)
def _few_blocks(monkeypatch):
    """Bottlenecks that change the size, and one that does not: sixteen are only slower."""
    block, _ = resnet.DEPTHS[50]
    monkeypatch.setitem(resnet.DEPTHS, 50, (block, (2, 1, 1, 1)))


def make(name, remat, **options):
    """A network with scattered weights, the same for both values of ``remat``."""
    model = NETWORKS[name](remat=remat, name=f"n{remat:d}", **options)
    rng = np.random.default_rng(0)
    model.build((None, None, None, 3))
    for variable in model.variables:
        low = 0.5 if variable.name in ("gamma", "moving_variance") else -0.3
        variable.assign(rng.uniform(low, low + 0.6, variable.shape))
    return model


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


@pytest.fixture(scope="module")
def kept():
    """A function of a network that keeps its activations: it, and what its step has given.

    What several tests compare with is computed once.
    """
    known = {}

    def run(name, *, dtype, wrap=tf.function):
        key = (name, dtype, wrap)
        if key not in known:
            model, kind = make(name, False, dtype=dtype), arrays_of(dtype)
            step = wrap(step_of(model))
            known[key] = model, step, step(images_of(dtype=kind), weights_of(model, dtype=kind))
        return known[key]

    return run


def arrays_of(dtype):
    return "float64" if dtype == "float64" else "float32"


def as_it_is(function):
    return function


@pytest.mark.parametrize("wrap", [as_it_is, tf.function])
@pytest.mark.parametrize("name", NETWORKS)
def test_values_gradients_and_statistics_are_those_of_the_kept_activations(kept, name, wrap):
    model, _, expected = kept(name, dtype="float64", wrap=as_it_is)
    again = make(name, True, dtype="float64")
    before = [v.numpy() for v in again.non_trainable_variables]
    assert_same(wrap(step_of(again))(images_of(), weights_of(again)), expected, 1e-11)
    assert_same(again.non_trainable_variables, model.non_trainable_variables, 1e-12)
    if name != "transformer":
        moved = zip(again.non_trainable_variables, before, strict=True)
        assert all(np.abs(v - old).max() > 1e-6 for v, old in moved)


@pytest.mark.parametrize("replicas", [2, 4])
def test_on_any_number_of_replicas(kept, strategy_of, replicas):
    model, _, expected = kept("basic", dtype="float64", wrap=as_it_is)
    strategy = strategy_of(replicas)
    with strategy.scope():
        again = make("basic", True, dtype="float64")
    whole = (images_of(), weights_of(model))
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
    assert_same(again.non_trainable_variables, model.non_trainable_variables, 1e-12)


@pytest.mark.parametrize("name", ["basic", "transformer"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_in_the_precisions_of_training(kept, name, dtype):
    again = make(name, True, dtype=dtype)
    images, weights = images_of(dtype="float32"), weights_of(again, dtype="float32")
    _, _, expected = kept(name, dtype=dtype)
    assert_same(tf.function(step_of(again))(images, weights), expected, 1e-4)


@pytest.mark.parametrize("name", ["basic", "transformer"])
def test_xla_gives_the_same(kept, name):
    again = make(name, True, dtype="float32")
    images, weights = images_of(dtype="float32"), weights_of(again, dtype="float32")
    _, _, expected = kept(name, dtype="float32")
    assert_same(tf.function(step_of(again), jit_compile=True)(images, weights), expected, 2e-3)


def matmuls_and_convolutions(model, step):
    images, weights = images_of(dtype="float32"), weights_of(model, dtype="float32")
    graph = step.get_concrete_function(images, weights).graph
    kinds = ("Conv2D", "MatMul", "BatchMatMulV2")
    return sum(op.type in kinds for op in graph.get_operations())


def test_every_block_is_run_again(kept):
    model, step, _ = kept("basic", dtype="float32")
    again = make("basic", True, dtype="float32")
    more = matmuls_and_convolutions(again, tf.function(step_of(again)))
    # Four blocks of two convolutions and squeeze-and-excitation's two, and three projections.
    assert more - matmuls_and_convolutions(model, step) == 4 * 4 + 3


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
