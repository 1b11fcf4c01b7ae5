"""ResNets' shapes, parameter counts, initial values, options, and steps on several replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import ResNet
from tfcontrast.models.resnet import DEPTHS, resolve_stem


def _small(**options):
    options = {"depth": 10, "width_multiplier": 0.125, "stem": "cifar", **options}
    model = ResNet(**options)
    model.build((None, None, None, 3))
    return model


def _images(batch=2, height=32, width=32):
    return np.random.default_rng(0).random((batch, height, width, 3), "float32")


def _scatter_weights(model):
    """Weights off their initial values, so that batch norm's every term matters."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.2, variable.shape))


@pytest.mark.parametrize(
    ("depth", "parameters"),
    # torchvision's models without fc: the totals of its documentation less 1000 (D + 1)
    [(18, 11_176_512), (34, 21_284_672), (50, 23_508_032), (101, 42_500_160)],
)
def test_parameter_counts_are_torchvisions(depth, parameters):
    model = ResNet(depth=depth, stem="imagenet")
    model.build((None, None, None, 3))
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == parameters


ALL_SHAPES = [(depth, "imagenet", 4, 32) for depth in sorted(DEPTHS) if depth < 101] + [
    (10, stem, stride, output_stride)
    for stem, stride, output_strides in [
        ("imagenet", 4, [16, 8]), ("cifar", 1, [32, 8]), ("cifar_stride2", 2, [32, 16])
    ]
    for output_stride in output_strides
]  # fmt: skip


@pytest.mark.parametrize(("depth", "stem", "stride", "output_stride"), ALL_SHAPES)
def test_shapes_of_depths_stems_and_output_strides(depth, stem, stride, output_stride):
    model = _small(depth=depth, stem=stem, output_stride=output_stride, width_multiplier=1 / 16)
    outputs = model.endpoints(tf.zeros([2, 64, 64, 3]))
    expansion = 4 if depth >= 50 else 1
    expected = {"stem": (2, 64 // stride, 64 // stride, 4)}
    for i in range(4):
        side = 64 // min(output_stride, stride * 2**i)
        expected[f"group{i + 1}"] = (2, side, side, 4 * 2**i * expansion)
    expected["features"] = (2, 32 * expansion)
    assert {k: tuple(v.shape) for k, v in outputs.items()} == expected
    assert model.feature_dim == 32 * expansion
    assert len(model.groups) == 4


@pytest.mark.parametrize(("multiplier", "channels"), [(0.5, 32), (1.0, 64), (2.0, 128), (0.01, 1)])
def test_width_multiplier_scales_the_stem_and_the_features(multiplier, channels):
    model = _small(width_multiplier=multiplier)
    assert model.stem.convs[0].filters == channels
    assert model.feature_dim == 8 * channels


@pytest.mark.parametrize(
    ("stem", "size", "expected"),
    [
        ("auto", 32, "cifar"),
        ("auto", 8, "cifar"),
        ("auto", 33, "imagenet"),
        ("cifar", 224, "cifar"),
        ("imagenet", None, "imagenet"),
        ("cifar_stride2", 32, "cifar_stride2"),
    ],
)
def test_auto_stem_goes_by_image_size(stem, size, expected):
    assert resolve_stem(stem, size) == expected
    assert ResNet(depth=10, stem=stem, image_size=size).stem.kind == expected


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(18, {"torchvision": 3, "simclr": 4}), (50, {"torchvision": 4, "simclr": 4})],
)
@pytest.mark.parametrize("shortcut", ["torchvision", "simclr"])
def test_where_shortcuts_project(depth, blocks, shortcut):
    model = _small(depth=depth, shortcut=shortcut)
    projected = [block.shortcut is not None for group in model.groups for block in group.blocks]
    assert sum(projected) == blocks[shortcut]
    firsts = [group.blocks[0].shortcut is not None for group in model.groups]
    assert sum(firsts) == blocks[shortcut]


def test_convolutions_start_with_he_fan_out_values_all_different():
    model = ResNet(depth=18, stem="imagenet")
    model.build((None, None, None, 3))
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    for kernel in kernels:
        height, width, _, filters = kernel.shape
        expected = np.sqrt(2 / (height * width * filters))
        assert np.std(kernel) == pytest.approx(expected, rel=0.05)
    blocks = model.groups[0].blocks
    assert not np.array_equal(blocks[0].conv1.kernel, blocks[0].conv2.kernel)
    assert not np.array_equal(blocks[0].conv1.kernel, blocks[1].conv1.kernel)


@pytest.mark.parametrize("depth", [10, 50])
def test_zero_initialized_last_gammas_make_the_branches_vanish(depth):
    model = _small(depth=depth, zero_init_last_gamma=True)
    zero = [v.path for v in model.trainable_variables if v.name == "gamma" and not np.any(v)]
    last = "norm3" if depth == 50 else "norm2"
    assert len(zero) == sum(DEPTHS[depth][1])
    assert all(f"/{last}/" in path for path in zero)
    assert all(np.all(v) for v in _small(depth=depth).trainable_variables if v.name == "gamma")


def test_input_normalization_is_part_of_the_network():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    plain = _small()
    model = _small(input_mean=mean, input_std=std)
    model.set_weights(plain.get_weights())
    images = _images()
    normalized = (images - np.float32(mean)) / np.float32(std)
    np.testing.assert_allclose(model(images), plain(normalized), rtol=1e-4, atol=1e-6)
    assert np.abs(model(images) - plain(images)).max() > 1e-3


def test_mixed_precision_gives_float32_features_near_those_of_float32():
    model = _small(input_mean=(0.5, 0.5, 0.5))
    _scatter_weights(model)
    mixed = _small(input_mean=(0.5, 0.5, 0.5), dtype="mixed_bfloat16")
    mixed.set_weights(model.get_weights())
    images = _images()
    outputs = mixed.endpoints(images)
    assert outputs["group4"].dtype == tf.bfloat16
    assert outputs["features"].dtype == tf.float32
    assert all(v.dtype == "float32" for v in mixed.variables)
    features = model(images).numpy()
    assert np.abs(outputs["features"] - features).max() < 0.05 * np.abs(features).max()


def test_a_float64_network_stays_in_float64():
    model = _small(dtype="float64")
    assert model(_images().astype("float64"), training=True).dtype == tf.float64


def test_xla_gives_the_same_training_step():
    model = _small(stem="cifar_stride2", se_ratio=0.25)
    images = tf.constant(_images())

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(images, training=True)))
        return loss, tape.gradient(loss, model.trainable_variables)

    loss, gradients = tf.function(step)()
    xla_loss, xla_gradients = tf.function(step, jit_compile=True)()
    np.testing.assert_allclose(xla_loss, loss, rtol=1e-4)
    for ours, theirs in zip(gradients, xla_gradients, strict=True):
        np.testing.assert_allclose(theirs, ours, atol=2e-3 * max(1e-3, np.abs(ours).max()))


def test_a_training_step_does_not_depend_on_replicas(strategy_of):
    replicas = 4  # of which each is traced
    reference = _small(dtype="float64", name="reference")
    strategy = strategy_of(replicas)
    with strategy.scope():
        model = _small(dtype="float64")
    model.set_weights(reference.get_weights())
    images = _images(8, 16, 16).astype("float64")
    target = np.random.default_rng(2).normal(size=(8, model.feature_dim))

    def step(network, x, y):
        with tf.GradientTape() as tape:
            features = network(x, training=True)
            loss = tf.reduce_sum(features * y)
        return features, tape.gradient(loss, network.trainable_variables)

    expected, gradients = step(reference, tf.constant(images), tf.constant(target))
    parts = [np.split(a, replicas) for a in (images, target)]
    values = [
        strategy.experimental_distribute_values_from_function(
            lambda context, part=part: tf.constant(part[context.replica_id_in_sync_group])
        )
        for part in parts
    ]
    features, received = tf.function(
        lambda x, y: strategy.run(lambda a, b: step(model, a, b), args=(x, y))
    )(*values)
    features = np.concatenate(strategy.experimental_local_results(features))
    np.testing.assert_allclose(features, expected, atol=1e-10)
    for gradient, parts in zip(gradients, received, strict=True):
        total = sum(v.numpy() for v in strategy.experimental_local_results(parts))
        np.testing.assert_allclose(total, gradient, atol=1e-9)
    for ours, theirs in zip(model.variables, reference.variables, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-10, err_msg=ours.path)


@pytest.mark.parametrize("last_group", [-1, 0, 2, 4])
def test_freezing_stops_variables_and_statistics(last_group):
    model = _small()
    model.freeze(last_group)
    before = model.get_weights()
    model(_images(), training=True)
    changed = {
        v.path.split("/")[1]
        for v, old in zip(model.variables, before, strict=True)
        if not np.array_equal(v, old)
    }
    stages = ["stem", "group1", "group2", "group3", "group4"]
    assert changed == set(stages[last_group + 1 :])
    assert {v.path.split("/")[1] for v in model.trainable_variables} == changed


@pytest.mark.parametrize(
    "options",
    [
        {"input_mean": (0.1, 0.2, 0.3), "input_std": (0.5, 0.6, 0.7), "dtype": "mixed_bfloat16"},
        {
            "depth": 50,
            "sk_ratio": 0.0625,
            "se_ratio": 0.25,
            "stem": "imagenet",
            "shortcut": "simclr",
        },
        {
            "stem": "auto",
            "image_size": 32,
            "output_stride": 8,
            "global_bn": False,
            "name": "encoder",
        },
    ],
)
def test_a_saved_model_comes_back_whole(tmp_path, options):
    model = _small(**options)
    _scatter_weights(model)
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert copy.get_config() == model.get_config()
    np.testing.assert_array_equal(copy(_images()), model(_images()))


def test_layers_and_variables_have_explicit_names():
    model = _small(depth=50, sk_ratio=0.0625, se_ratio=0.25, stem="imagenet")
    paths = [v.path for v in model.variables]
    assert len(set(paths)) == len(paths)
    assert not [
        p for p in paths if any(part[-1].isdigit() and "_" in part for part in p.split("/"))
    ]
    assert "resnet/group2/block1/shortcut/conv/kernel" in paths
    assert "resnet/group4/block3/selective_kernel/reduce/kernel" in paths


def test_other_numbers_of_channels_build():
    model = ResNet(depth=10, stem="cifar", width_multiplier=0.125)
    assert model(tf.zeros([2, 8, 8, 1])).shape == (2, 64)
    assert model.stem.convs[0].kernel.shape == (3, 3, 1, 8)


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 20},
        {"stem": "none"},
        {"stem": "auto"},
        {"shortcut": "b"},
        {"output_stride": 4},
        {"width_multiplier": 0},
        {"input_mean": (0.5,)},
        {"input_std": (0.5, 0.5, 0.5, 0.5)},
    ],
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        _small(**options)


def test_freezing_an_unknown_group_is_refused():
    with pytest.raises(ValueError, match="Received: 5"):
        _small().freeze(5)
