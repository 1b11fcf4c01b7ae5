"""The vision transformer: sizes, stages, options, precision, drop path, save and load."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.errors import UserError
from tfcontrast.models import VisionTransformer
from tfcontrast.models.vit_drop_path import drop_path_factors
from tfcontrast.optim import variable_roles

SEED = tf.constant([7, 9], tf.uint32)


def _small(**options):
    options = {
        "width": 16,
        "depth": 3,
        "num_heads": 2,
        "patch_size": 4,
        "image_size": 16,
        **options,
    }
    model = VisionTransformer(**options)
    model.build((None, None, None, 3))
    return model


def _images(batch=4, height=16, width=16):
    return np.random.default_rng(0).random((batch, height, width, 3), "float32")


def _scatter(model):
    """Larger weights than the initial ones, so that every term counts."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        offset = 1.0 if variable.name == "gamma" else 0.0
        variable.assign(offset + rng.normal(0, 0.3, variable.shape))
    return model


def _count(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


@pytest.mark.parametrize(
    ("size", "parameters"),
    # timm's vit_{tiny,small,base}_patch16_224 without head: 5,717,416, 22,050,664 and 86,567,656
    # less 1000 (D + 1)
    [("tiny", 5_524_416), ("small", 21_665_664), ("base", 85_798_656)],
)
def test_parameter_counts_are_timms(size, parameters):
    model = VisionTransformer(size=size)
    model.build((None, None, None, 3))
    assert _count(model.trainable_variables) == parameters
    d = model.feature_dim
    block = 2 * 2 * d + (d * 3 * d + 3 * d) + (d * d + d) + (d * 4 * d + 4 * d) + (4 * d * d + d)
    embedding = (16 * 16 * 3 * d + d) + d + (14 * 14 + 1) * d
    assert parameters == embedding + 12 * block + 2 * d
    heads = {"tiny": 3, "small": 6, "base": 12}[size]
    assert {b.attention.num_heads for b in model.blocks} == {heads}


def test_moco_v3_has_fixed_positions_twelve_heads_and_a_frozen_projection():
    model = VisionTransformer(
        num_heads=12,
        position_embedding="sincos",
        initialization="moco_v3",
        freeze_patch_embedding=True,
    )
    model.build((None, None, None, 3))
    assert model.blocks[0].attention.num_heads == 12
    frozen = 16 * 16 * 3 * 384 + 384
    assert _count(model.trainable_variables) == 21_665_664 - 197 * 384 - frozen
    assert _count(model.variables) == 21_665_664 - 197 * 384


@pytest.mark.parametrize(("pooling", "first"), [("cls", 1), ("average", 0)])
def test_stages_and_features(pooling, first):
    model = _scatter(_small(pooling=pooling))
    outputs = model.endpoints(_images(2, 8, 20))
    stages = ["embedding", "block1", "block2", "block3", "tokens", "features"]
    assert list(outputs) == stages
    assert {tuple(outputs[name].shape) for name in stages[:-1]} == {(2, 2 * 5 + first, 16)}
    x = outputs["embedding"]
    for block in model.blocks:
        x = block(x)
        np.testing.assert_array_equal(outputs[block.name], x)
    x = x.numpy().astype("float64") if pooling == "cls" else x.numpy().mean(1, keepdims=True)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * np.asarray(model.norm.gamma) + np.asarray(model.norm.beta)
    np.testing.assert_allclose(outputs["features"], x[:, 0], atol=1e-5)
    np.testing.assert_array_equal(model(_images(2, 8, 20)), outputs["features"])
    assert (model.embedding.class_token is None) == (pooling == "average")
    assert model.compute_output_shape((5, 8, 8, 3)) == (5, 16) == (5, model.feature_dim)


def test_images_are_normalised_before_the_patches():
    mean, deviation = [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]
    model = _small(input_mean=mean, input_std=deviation)
    plain = _small()
    plain.set_weights(model.get_weights())
    np.testing.assert_allclose(
        model(_images()), plain((_images() - np.float32(mean)) / np.float32(deviation)), atol=1e-5
    )
    with pytest.raises(ValueError, match=r"input_mean needs 1 values. Received: \[0.4, 0.5, 0.6\]"):
        VisionTransformer(depth=1, input_mean=mean).build((None, None, None, 1))


@pytest.mark.parametrize(("views", "position_embedding"), [(1, "learned"), (2, "sincos")])
def test_graph_xla_and_unknown_sizes_are_eager(views, position_embedding):
    model = _scatter(_small(drop_path_rate=0.6, position_embedding=position_embedding))
    images = _images(8, 8, 12)

    def run(images, seed):
        return model(images, training=True, seed=seed, views=views)

    eager = run(images, SEED).numpy()
    assert np.abs(eager - model(images)).max() > 0.1
    np.testing.assert_allclose(tf.function(run)(images, SEED), eager, atol=1e-5)
    np.testing.assert_allclose(tf.function(run, jit_compile=True)(images, SEED), eager, atol=1e-4)
    specs = [tf.TensorSpec([None, None, None, 3]), tf.TensorSpec([2], tf.uint32)]
    np.testing.assert_allclose(tf.function(run, specs)(images, SEED), eager, atol=1e-5)


def test_mixed_precision_is_close_and_its_outputs_are_float32():
    exact = _small()
    model = _small(dtype="mixed_bfloat16")
    model.set_weights(exact.get_weights())
    outputs = model.endpoints(_images())
    assert {value.dtype.name for value in outputs.values()} == {"float32"}
    assert {v.dtype for v in model.variables} == {"float32"}
    assert np.abs(outputs["features"] - exact(_images())).max() < 0.1
    double = _small(dtype="float64")
    double.set_weights(exact.get_weights())
    result = double(_images().astype("float64"))
    assert result.dtype == tf.float64
    np.testing.assert_allclose(exact(_images()), result, atol=1e-5)


def test_drop_path_needs_training_and_a_seed_and_follows_it():
    model = _scatter(_small(drop_path_rate=0.5))
    images = _images(32)
    plain = model(images)
    np.testing.assert_array_equal(model(images, training=True), plain)
    np.testing.assert_array_equal(model(images, seed=SEED), plain)
    one = model(images, training=True, seed=SEED)
    np.testing.assert_array_equal(one, model(images, training=True, seed=SEED))
    np.testing.assert_array_equal(
        one, model(images, training=True, seed=tf.bitcast(SEED, tf.int32))
    )
    other = model(images, training=True, seed=SEED + 1)
    assert (np.abs(one - other).max(1) > 1e-3).mean() > 0.6
    factors = drop_path_factors(SEED, tf.range(32), rate=0.5, depth=3)
    x = model.endpoints(images)["embedding"]
    for block, both in zip(model.blocks, factors, strict=True):
        x = block(x, factors=both)
    np.testing.assert_allclose(model.norm(x)[:, 0], one, atol=1e-4)
    still = _scatter(_small())
    np.testing.assert_array_equal(still(images, training=True, seed=SEED), plain)


def test_drop_path_keeps_a_branchs_mean():
    # One block after the first, whose second branch is nothing: all or twice the branch is left
    model = _scatter(_small(depth=2, drop_path_rate=0.5, pooling="average"))
    for variable in model.blocks[1].dense2.variables:
        variable.assign(tf.zeros_like(variable))
    images = np.repeat(_images(1), 600, 0)
    plain = model.endpoints(images)
    branch = plain["block2"] - plain["block1"]
    outputs = model.endpoints(images, training=True, seed=SEED)
    np.testing.assert_array_equal(outputs["block1"], plain["block1"])
    shares = tf.reduce_sum((outputs["block2"] - outputs["block1"]) * branch, [1, 2])
    shares = (shares / tf.reduce_sum(branch**2, [1, 2])).numpy()
    assert set(np.round(shares, 3)) == {0.0, 2.0}
    assert shares.mean() == pytest.approx(1, abs=0.17)


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas_drop_what_one_drops(strategy_of, replicas):
    strategy = strategy_of(replicas)
    with strategy.scope():
        model = _scatter(_small(drop_path_rate=0.6))
    images = tf.constant(_images(8))
    alone = model(tf.concat([images, images], 0), training=True, seed=SEED, views=2).numpy()
    rows = 8 // replicas

    @tf.function
    def run():
        def step():
            first = rows * tf.distribute.get_replica_context().replica_id_in_sync_group
            local = images[first : first + rows]
            return model(tf.concat([local, local], 0), training=True, seed=SEED, views=2)

        return strategy.experimental_local_results(strategy.run(step))

    parts = [part.numpy().reshape(2, rows, -1) for part in run()]
    together = np.concatenate(parts, 1).reshape(16, -1)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_weights_decay_by_rank_as_in_the_sources():
    model = _small()
    roles = variable_roles(model)
    found = {"/".join(v.path.split("/")[1:]): roles[id(v)] for v in model.trainable_variables}
    assert len(found) == len(roles) == 4 + 3 * 12 + 2
    for name, role in found.items():
        expected = "norm" if "norm" in name else "bias" if name.endswith("bias") else "kernel"
        assert role == expected, name
    assert found["embedding/class_token"] == found["embedding/positions"] == "kernel"
    assert found["norm/gamma"] == "norm"


def test_every_variable_gets_a_gradient_but_the_frozen_ones():
    for frozen in (False, True):
        model = _scatter(_small(freeze_patch_embedding=frozen, drop_path_rate=0.1))
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(_images(), training=True, seed=SEED) ** 2)
        variables = [v.value for v in model.variables]
        for variable, gradient in zip(model.variables, tape.gradient(loss, variables), strict=True):
            stopped = frozen and "projection" in variable.path
            assert (gradient is None) == stopped, variable.path
            assert variable.trainable != stopped
            if gradient is not None:
                assert np.any(np.abs(gradient) > 0), variable.path


@pytest.mark.parametrize(("last", "frozen"), [(-1, 0), (0, 4), (1, 4 + 12), (3, 4 + 3 * 12 + 2)])
def test_freeze_takes_the_first_groups(last, frozen):
    model = _small()
    everything = len(model.trainable_variables)
    model.freeze(last)
    assert len(model.trainable_variables) == everything - frozen
    with pytest.raises(ValueError, match="Received: 4"):
        model.freeze(4)


def test_a_saved_transformer_comes_back_whole(tmp_path):
    model = _scatter(
        _small(
            size="tiny",
            position_embedding="sincos",
            pooling="average",
            initialization="moco_v3",
            freeze_patch_embedding=True,
            drop_path_rate=0.2,
            input_mean=[0.1, 0.2, 0.3],
            name="backbone",
            dtype="mixed_bfloat16",
        )
    )
    model(_images())
    model.save(tmp_path / "vit.keras")
    copy = keras.models.load_model(tmp_path / "vit.keras")
    assert copy.get_config() == model.get_config()
    assert copy.name == "backbone"
    np.testing.assert_array_equal(copy(_images()), model(_images()))


@pytest.mark.parametrize(
    "options",
    [
        {"size": "huge"},
        {"position_embedding": "rotary"},
        {"pooling": "max"},
        {"initialization": "timm"},
        {"patch_size": 0},
        {"num_heads": 5},
        {"depth": -1},
        {"width": -16},
        {"drop_path_rate": 1.0},
        {"drop_path_rate": -0.1},
        {"width": 6, "num_heads": 2, "position_embedding": "sincos"},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        VisionTransformer(**options)


def test_an_image_size_with_a_part_of_a_patch_is_one_line():
    message = "--image_size must be a multiple of its patch size 16. Received: "
    with pytest.raises(UserError, match=message + "100"):
        VisionTransformer(image_size=100)
    model = VisionTransformer(width=8, depth=1, num_heads=1, image_size=32)
    assert model.check_image_size(96) is None
    with pytest.raises(UserError, match=f"^A vision transformer's {message}40$"):
        model.check_image_size(40)
    with pytest.raises(UserError, match=message + "40"):
        model(tf.zeros([1, 32, 40, 3]))
