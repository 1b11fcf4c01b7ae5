"""The exported module in a process of its own that cannot import this package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.export import METADATA_FILE, save_hub_module
from tfcontrast.models import Projector, ResNet, VisionTransformer

WITHOUT_THIS_PACKAGE = "import sys; sys.modules['tfcontrast'] = None  # importing it fails now"

FINE_TUNE = """
import sys
import numpy as np
import tensorflow as tf

folder, data = sys.argv[1:]
data = np.load(data)
module = tf.saved_model.load(folder)
images = tf.constant(data["images"])
np.testing.assert_allclose(module(images), data["features"], atol=1e-5)
np.testing.assert_allclose(module(images, training=False), data["features"], atol=1e-5)
np.testing.assert_allclose(module(images, False), data["features"], atol=1e-5)
np.testing.assert_allclose(module(data["other_images"]), data["other_features"], atol=1e-5)
served = module.signatures["serving_default"](images=images)
assert sorted(served) == ["features", "projections"]
np.testing.assert_allclose(served["features"], data["features"], atol=1e-5)
np.testing.assert_allclose(served["projections"], data["projections"], atol=1e-5)
only = module.signatures["features"](images=images)
assert sorted(only) == ["features"]
np.testing.assert_allclose(only["features"], data["features"], atol=1e-5)
layers = module.signatures["projections"](images=images)
assert sorted(layers) == ["hidden_1", "hidden_2", "projections"]
np.testing.assert_allclose(layers["hidden_2"], data["hidden_2"], atol=1e-5)
assert list(module.regularization_losses) == []

before = [v.numpy() for v in module.variables]
features = module(images, training=True)
np.testing.assert_allclose(features, data["training_features"], atol=1e-4)
trainable = {id(v) for v in module.trainable_variables}
assert 0 < len(trainable) < len(before)
for old, variable in zip(before, module.variables):
    moved = bool(np.any(old != variable.numpy()))
    assert moved == (id(variable) not in trainable), variable.name

with tf.GradientTape() as tape:
    features = module(images, training=True)
    loss = tf.reduce_sum(features * tf.random.stateless_normal(features.shape, [1, 2]))
gradients = tape.gradient(loss, module.trainable_variables)
before = [v.numpy() for v in module.trainable_variables]
for variable, gradient in zip(module.trainable_variables, gradients):
    variable.assign_sub(0.1 * gradient)
for old, variable in zip(before, module.trainable_variables):
    assert np.any(old != variable.numpy()), variable.name
print("fine-tuned")
"""

KERAS_LAYER = """
import sys
import numpy as np
import tf_keras
import tensorflow_hub as hub

folder, data = sys.argv[1:]
data = np.load(data)
encoder = hub.KerasLayer(folder, trainable=True)
model = tf_keras.Sequential([encoder, tf_keras.layers.Dense(3)])
np.testing.assert_allclose(encoder(data["images"]), data["features"], atol=1e-5)
before = [v.numpy() for v in encoder.trainable_variables]
assert len(before) == int(data["num_trainable"])
model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(data["images"], np.arange(len(data["images"])) % 3, epochs=1, verbose=0)
for old, variable in zip(before, encoder.trainable_variables):
    assert np.any(old != variable.numpy()), variable.name
print("fitted")
"""


def _models(**options):
    backbone = ResNet(
        depth=10, stem="cifar", width_multiplier=0.125, input_mean=(0.4, 0.5, 0.6),
        input_std=(0.2, 0.3, 0.25), **options,
    )  # fmt: skip
    projector = Projector(num_layers=3, output_dim=8, **options)
    backbone.build((None, 16, 16, 3))
    projector.build((None, backbone.feature_dim))
    rng = np.random.default_rng(0)
    for variable in (*backbone.variables, *projector.variables):
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.2, variable.shape))
    return backbone, projector


def _images(height=16, width=16):
    return np.random.default_rng(1).random((6, height, width, 3), "float32")


def _write_expectations(path, backbone, projector):
    images, other_images = _images(), _images(20, 12)
    features = backbone(images)
    outputs = projector.outputs(features)
    np.savez(
        path, images=images, features=features, hidden_2=outputs[2], projections=outputs[3],
        other_images=other_images, other_features=backbone(other_images),
        num_trainable=len(backbone.trainable_variables),
        training_features=backbone(images, training=True),
    )  # fmt: skip


def _run(script, tmp_path, *args):
    """Runs a script in a process that cannot import this package."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_THIS_PACKAGE + script, *map(str, args)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


_EXPORTED = []


@pytest.fixture
def exported(tmp_path_factory, strategy_of):
    """A folder with a module and its data, once for all; the models, and weights around it."""
    if not _EXPORTED:
        folder = tmp_path_factory.mktemp("exported")
        with strategy_of(2).scope():
            models = _models()
        before = [array for model in models for array in model.get_weights()]
        save_hub_module(str(folder / "module"), *models, extra_metadata={"step": 7})
        after = [array for model in models for array in model.get_weights()]
        _write_expectations(folder / "data.npz", *models)
        _EXPORTED.append((folder, models, before, after))
    return _EXPORTED[0]


def test_loads_and_fine_tunes_without_this_package(tmp_path, exported):
    folder = exported[0]
    result = _run(FINE_TUNE, tmp_path, folder / "module", folder / "data.npz")
    assert result.stdout == "fine-tuned\n", result.stderr


def test_works_as_a_hub_keras_layer(tmp_path):
    backbone, projector = _models()
    save_hub_module(str(tmp_path / "module"), backbone)
    _write_expectations(tmp_path / "data.npz", backbone, projector)
    result = _run(KERAS_LAYER, tmp_path, tmp_path / "module", tmp_path / "data.npz")
    assert result.stdout == "fitted\n", result.stderr


def test_the_graph_has_no_collectives_and_no_python_gradients(exported):
    graph = (exported[0] / "module" / "saved_model.pb").read_bytes()
    assert b"Collective" not in graph
    assert b"CustomGradient" not in graph
    assert b"FusedBatchNormV3" in graph


def test_a_vision_transformer_takes_all_multiples_of_its_patch(tmp_path):
    backbone = VisionTransformer(
        width=24, depth=2, num_heads=3, patch_size=4, image_size=16, drop_path_rate=0.5,
        freeze_patch_embedding=True, input_mean=(0.4, 0.5, 0.6), dtype="mixed_bfloat16",
    )  # fmt: skip
    backbone.build((None, 16, 16, 3))
    backbone.freeze(1)
    rng = np.random.default_rng(0)
    for variable in backbone.variables:
        variable.assign(rng.normal(0, 0.3, variable.shape) + (variable.name == "gamma"))
    plain = VisionTransformer.from_config({**backbone.get_config(), "dtype": "float32"})
    plain.build((None, 16, 16, 3))
    plain.set_weights(backbone.get_weights())
    save_hub_module(str(tmp_path / "module"), backbone)
    module = tf.saved_model.load(str(tmp_path / "module"))
    for size in ((16, 16), (20, 12), (8, 32)):
        expected = plain(_images(*size))
        np.testing.assert_allclose(module(_images(*size)), expected, atol=1e-5)
        trained = module(_images(*size), training=True)
        np.testing.assert_allclose(trained, expected, atol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(module(_images(), training=True) ** 2)
    variables = module.trainable_variables
    assert len(variables) == len(backbone.variables) - 2, "all but the frozen projection"
    assert all(np.any(gradient) for gradient in tape.gradient(loss, variables))
    with pytest.raises(tf.errors.InvalidArgumentError, match="multiples of 4"):
        module(_images(16, 18))
    metadata = json.loads((tmp_path / "module" / METADATA_FILE).read_text())
    assert metadata["backbone"]["class"] == "VisionTransformer"
    assert metadata["backbone"]["patch_size"] == 4


def test_a_mixed_precision_model_leaves_in_float32(tmp_path):
    backbone, _ = _models(dtype="mixed_bfloat16")
    plain, _ = _models()
    plain.set_weights(backbone.get_weights())
    save_hub_module(str(tmp_path / "module"), backbone)
    module = tf.saved_model.load(str(tmp_path / "module"))
    features = module(_images())
    assert features.dtype == tf.float32
    np.testing.assert_allclose(features, plain(_images()), atol=1e-5)


@pytest.mark.parametrize("own", [{"batch_norm_splits": 4}, {"remat": True}])
def test_what_only_training_needs_stays_behind(tmp_path, own):
    options = {"depth": 10, "width_multiplier": 0.1, "stem": "cifar"}
    grouped, plain = ResNet(**options, **own), ResNet(**options)
    images = tf.random.stateless_uniform([6, 16, 16, 3], [0, 1])
    grouped(images), plain(images)
    plain.set_weights(grouped.get_weights())
    save_hub_module(str(tmp_path / "module"), grouped)
    found = tf.saved_model.load(str(tmp_path / "module"))(images, training=True)
    np.testing.assert_allclose(found, plain(images, training=True), atol=1e-4)


def test_exporting_leaves_the_models_alone(exported):
    folder, models, before, after = exported
    start = [array for model in models for array in model.get_weights()]
    tf.saved_model.load(str(folder / "module"))(_images(), training=True)
    end = [array for model in models for array in model.get_weights()]
    for old, new in zip([*before, *start], [*after, *end], strict=True):
        np.testing.assert_array_equal(old, new)


def test_frozen_parts_do_not_hide_variables(tmp_path):
    backbone, _ = _models()
    backbone.freeze(4)
    save_hub_module(str(tmp_path / "module"), backbone)
    module = tf.saved_model.load(str(tmp_path / "module"))
    assert len(module.trainable_variables) == len(_models()[0].trainable_variables)


def test_metadata_says_what_was_exported(exported):
    metadata = json.loads((exported[0] / "module" / METADATA_FILE).read_text())
    assert metadata["step"] == 7
    assert metadata["backbone"]["class"] == "ResNet"
    assert metadata["backbone"]["depth"] == 10
    assert metadata["feature_dim"] == 64
    assert metadata["projector"]["num_layers"] == 3
    assert metadata["embedding_dim"] == 8


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    target = tmp_path / "module"
    target.mkdir()
    (target / "precious").write_text("kept")
    backbone, _ = _models()
    with pytest.raises(FileExistsError, match="overwrite"):
        save_hub_module(str(target), backbone)
    assert [p.name for p in target.iterdir()] == ["precious"]
    save_hub_module(f"{target}/", backbone, overwrite=True)
    assert not (target / "precious").exists()
    assert (target / "saved_model.pb").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["module"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_nothing_half_written(tmp_path, monkeypatch, overwrite):
    backbone, _ = _models()
    target = tmp_path / "module"
    if overwrite:
        target.mkdir()
        (target / "old").write_text("kept")

    def fail(module, path, **_):
        tf.io.gfile.makedirs(path)
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_hub_module(str(target), backbone, overwrite=overwrite)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == (
        ["module", "module/old"] if overwrite else []
    )


def test_unserializable_metadata_is_refused_before_writing(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_hub_module(str(tmp_path / "m"), _models()[0], extra_metadata={"bad": object()})
    assert list(tmp_path.iterdir()) == []


def test_an_unbuilt_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"not built"):
        save_hub_module(str(tmp_path / "m"), ResNet(depth=10, stem="cifar"))


def test_an_open_scope_is_refused(tmp_path, strategy_of):
    backbone, _ = _models()
    with strategy_of(2).scope(), pytest.raises(ValueError, match="Received: 2 replicas"):
        save_hub_module(str(tmp_path / "m"), backbone)
