import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import ProjectionConfig, Supervised, SupervisedConfig, make_projector
from tfcontrast.methods.supervised import FROZEN_ENCODER
from tfcontrast.models import ResNet, VisionTransformer
from tfcontrast.train import state


def logits_and_labels():
    logits = np.array([[2.0, 0.0, -1.0], [0.5, 0.6, 0.1], [0.0, 0.0, 3.0], [1.0, 2.0, 0.0]])
    return logits, np.array([0, 0, 2, 2], np.int64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_of_hand_made_logits(tiny_backbone, smoothing):
    logits, labels = logits_and_labels()
    method = Supervised(tiny_backbone(), SupervisedConfig(label_smoothing=smoothing), num_classes=3)
    features = tf.constant(np.eye(4), tf.float32)
    found = method.compute_losses(
        {"features": features, "logits": tf.constant(logits, tf.float32)},
        {"label": tf.constant(labels)},
    )
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    np.testing.assert_allclose(found["loss"], -(target * np.log(p)).sum(1).mean(), rtol=1e-6)
    assert float(found["train_top1"]) == 0.5
    entropy = -(p * np.log(p)).sum(1).mean()
    np.testing.assert_allclose(found["prediction_entropy"], entropy, rtol=1e-6)
    np.testing.assert_allclose(found["feature_std"], np.sqrt(3) / 4, rtol=1e-6)


@pytest.mark.parametrize("zero", [True, False])
def test_the_classifier_starts_at_zero_or_small(tiny_backbone, zero):
    method = Supervised(tiny_backbone(), num_classes=3, zero_init=zero)
    logits = method.classify(tf.random.stateless_uniform([4, 8, 8, 3], [1, 2]))
    assert logits.dtype == tf.float32
    kernel = method.classifier.kernel.numpy()
    assert np.any(logits) != zero
    if not zero:
        assert 0.002 < kernel.std() < 0.03


def resnet_method(frozen_groups, *, layers=0):
    keras.utils.set_random_seed(3)
    projector = make_projector(ProjectionConfig(num_proj_layers=3, proj_out_dim=5))
    method = Supervised(
        ResNet(depth=10, width_multiplier=0.1, stem="cifar_stride2", name="backbone"),
        num_classes=4,
        frozen_groups=frozen_groups,
        projector=projector,
        projector_layers=layers,
    )
    # weight decay would move a variable that has no gradient
    method.compile(keras.optimizers.SGD(0.1, weight_decay=0.1), jit_compile=False)
    method.prepare(8)
    return method


def moved_by_two_steps(method, fit):
    before = state.values(state.model_state(method))
    fit(method, 2)
    after = state.values(state.model_state(method))
    return {name for name in before if np.any(before[name] != after[name])}, set(before)


@pytest.mark.parametrize("frozen", [-1, 0, 2, 4])
def test_frozen_groups_keep_variables_and_statistics_bit_for_bit(fit, frozen):
    moved, every = moved_by_two_steps(resnet_method(frozen), fit)
    parts = ["stem", "group1", "group2", "group3", "group4"]
    still = tuple(f"backbone/{part}/" for part in parts[: frozen + 1])
    assert not {name for name in moved if name.startswith(still)}
    assert moved == {name for name in every if not name.startswith(still or ("-",))}
    assert any("moving_variance" in name for name in moved) == (frozen < 4)


def small_backbone(kind):
    keras.utils.set_random_seed(3)
    if kind == "vit":
        return VisionTransformer(
            width=8, depth=5, num_heads=2, patch_size=4, image_size=8, drop_path_rate=0.5
        )
    return ResNet(depth=10, width_multiplier=0.1, stem="cifar_stride2", se_ratio=0.5)


def fitted(backbone, fit, frozen_groups):
    """The names of what two steps move in the backbone, and of all that it has."""
    method = Supervised(backbone, num_classes=4, frozen_groups=frozen_groups)
    method.compile(keras.optimizers.SGD(0.1, weight_decay=0.1), jit_compile=False)
    method.prepare(8)
    before = state.values(dict(state.named_variables(backbone, "backbone")))
    fit(method, 2)
    after = state.values(dict(state.named_variables(backbone, "backbone")))
    moved = {name.split("/", 1)[1] for name in before if np.any(before[name] != after[name])}
    return moved, {name.split("/", 1)[1] for name in before}


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_frozen_encoder_of_any_kind_is_frozen_whole(fit, kind, built):
    backbone = small_backbone(kind)
    if built:
        backbone(tf.zeros([2, 8, 8, 3]))
    moved, every = fitted(backbone, fit, FROZEN_ENCODER)
    assert not moved
    assert len(every) > 30


def test_a_vision_transformers_groups_are_its_blocks(fit):
    moved, every = fitted(small_backbone("vit"), fit, 4)
    assert moved == {name for name in every if name.startswith(("block5/", "norm/"))}
    moved, every = fitted(small_backbone("vit"), fit, 0)
    assert moved == {name for name in every if not name.startswith("embedding/")}


@pytest.mark.parametrize(("layers", "kept"), [(1, ["1"]), (2, ["1", "2"]), (-1, ["1", "2", "3"])])
def test_kept_projector_layers_train_and_the_others_stand_still(fit, layers, kept):
    method = resnet_method(3, layers=layers)
    moved, every = moved_by_two_steps(method, fit)
    names = {name for name in every if name.startswith("projector/")}
    learning = {n for n in names if n.split("/")[1][-1] in kept}
    assert {name for name in moved if name.startswith("projector/")} == learning
    images = tf.random.stateless_uniform([2, 8, 8, 3], [0, 4])
    outputs = method.projector.outputs(method.backbone(images))
    expected = method.classifier(outputs[layers])
    np.testing.assert_array_equal(method.classify(images), expected)


def test_a_frozen_encoder_freezes_its_projector_too(fit):
    moved, _ = moved_by_two_steps(resnet_method(4, layers=-1), fit)
    assert moved == {"classifier/kernel", "classifier/bias"}


@pytest.mark.parametrize("layers", [4, -2])
def test_a_layer_that_the_projector_does_not_have_is_refused(layers):
    with pytest.raises(ValueError, match=rf"between -1 and 3\. Received: {layers}"):
        resnet_method(-1, layers=layers)
