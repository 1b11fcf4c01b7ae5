"""Patches, [CLS] and positions against NumPy; initial values; what is refused."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.errors import UserError
from tfcontrast.models.vit_embedding import PatchEmbedding
from tfcontrast.models.vit_positions import resize_matrix, sincos_positions

IMAGES = np.random.default_rng(0).random((2, 12, 12, 3), "float32")


def _embedding(width=8, **options):
    options = {
        "patch_size": 4,
        "image_size": 12,
        "positions": "learned",
        "class_token": True,
        "frozen": False,
        "initialization": "dino",
        **options,
    }
    layer = PatchEmbedding(width, name="embedding", **options)
    layer.build((None, None, None, 3))
    return layer


def _value(variable):
    return np.asarray(variable, "float64")


def _slow_patches(layer, images):
    size = layer.patch_size
    kernel = _value(layer.projection.kernel).reshape(-1, layer.width)
    rows = []
    for y in range(0, images.shape[1], size):
        for x in range(0, images.shape[2], size):
            patch = images[:, y : y + size, x : x + size].reshape(len(images), -1)
            rows.append(patch @ kernel + _value(layer.projection.bias))
    return np.stack(rows, 1)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_tokens_are_numpys(positions, class_token):
    layer = _embedding(positions=positions, class_token=class_token)
    expected = _slow_patches(layer, IMAGES)
    if positions == "learned":
        places = _value(layer.positions)[0]
    else:
        places = np.concatenate([np.zeros((1, 8)), sincos_positions(3, 3, 8)])[1 - class_token :]
        assert layer.positions is None
    expected = expected + places[int(class_token) :]
    if class_token:
        first = np.tile(_value(layer.class_token)[0] + places[:1], (2, 1, 1))
        expected = np.concatenate([first, expected], 1)
    np.testing.assert_allclose(layer(IMAGES), expected, atol=1e-5)


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_other_sizes_get_interpolated_positions_and_the_same_class_token(positions):
    layer = _embedding(positions=positions)
    images = np.random.default_rng(1).random((2, 8, 20, 3), "float32")
    tokens = layer(images).numpy()
    assert tokens.shape == (2, 1 + 2 * 5, 8)
    np.testing.assert_array_equal(tokens[:, 0], layer(IMAGES)[:, 0])
    places = sincos_positions(3, 3, 8) if positions == "sincos" else _value(layer.positions)[0, 1:]
    rows, columns = _value(resize_matrix(3, 2)), _value(resize_matrix(3, 5))
    expected = np.einsum("ai,bj,ijd->abd", rows, columns, places.reshape(3, 3, 8)).reshape(10, 8)
    np.testing.assert_allclose(
        tokens[:, 1:] - _slow_patches(layer, images) - expected, 0, atol=1e-5
    )


def test_a_frozen_projection_has_no_gradient_and_is_not_trained():
    for frozen in (True, False):
        layer = _embedding(frozen=frozen)
        layer.trainable = True  # what a caller may do to the whole model
        with tf.GradientTape() as tape:
            tape.watch([v.value for v in layer.projection.variables])
            loss = tf.reduce_sum(tf.square(layer(IMAGES)))
        projection, rest = tape.gradient(
            loss,
            ([v.value for v in layer.projection.variables], [layer.positions.value]),
        )
        assert all((gradient is None) == frozen for gradient in projection)
        assert np.any(rest[0])
        names = [v.path.split("/")[-2:] for v in _embedding(frozen=frozen).trainable_variables]
        assert (["projection", "kernel"] in names) == (not frozen)
        assert (["projection", "bias"] in names) == (not frozen)


def test_initial_values_of_both_sources():
    dino = _embedding(256, patch_size=8, image_size=224)
    assert np.abs(dino.projection.kernel).max() == pytest.approx(192**-0.5, rel=0.01)
    assert np.abs(dino.projection.bias).max() == pytest.approx(192**-0.5, rel=0.05)
    assert np.std(dino.positions) == pytest.approx(0.02, rel=0.02)
    assert np.std(dino.class_token) == pytest.approx(0.02, rel=0.2)
    moco = _embedding(256, patch_size=8, image_size=16, initialization="moco_v3")
    limit = (6 / (192 + 256)) ** 0.5
    assert np.abs(moco.projection.kernel).max() == pytest.approx(limit, rel=0.01)
    assert not np.any(moco.projection.bias)
    assert np.std(moco.class_token) == pytest.approx(1e-6, rel=0.2)


@pytest.mark.parametrize("side", [30, 3, 0])
def test_a_size_with_a_part_of_a_patch_is_refused(side):
    message = f"--image_size must be a multiple of its patch size 4. Received: {side}"
    with pytest.raises(UserError, match=message):
        _embedding(image_size=side)
    layer = _embedding()
    for shape in ((1, side, 12, 3), (1, 12, side, 3)):
        with pytest.raises(UserError, match=message):
            layer.call(tf.zeros(shape))
