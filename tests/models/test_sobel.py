import numpy as np
import pytest
import tensorflow as tf
from scipy import signal

from tfcontrast.models import ResNet
from tfcontrast.models.sobel import sobel_gradients

RNG = np.random.default_rng(0)


def test_values_are_an_independent_correlations():
    images = RNG.random([2, 7, 5, 3])
    found = sobel_gradients(tf.constant(images))
    assert found.shape == (2, 7, 5, 2)
    across = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]])
    for row, image in enumerate(images):
        grey = image.sum(-1) / 3
        for channel, filters in enumerate((across, across.T)):
            expected = signal.correlate2d(grey, filters, mode="same")  # zeros around
            np.testing.assert_allclose(found[row, ..., channel], expected, atol=1e-12)


def test_a_constant_image_gives_nothing_inside_and_its_colour_does_not_matter():
    found = sobel_gradients(tf.ones([1, 6, 6, 3]) * [0.2, 0.5, 0.9]).numpy()
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], 0, atol=1e-6)
    assert np.abs(found[:, 0]).max() > 1
    images = RNG.random([1, 6, 6, 3]).astype(np.float32)
    swapped = sobel_gradients(tf.constant(images[..., ::-1]))
    np.testing.assert_allclose(sobel_gradients(tf.constant(images)), swapped, atol=1e-6)


def test_a_slope_has_its_direction():
    across = np.broadcast_to(np.arange(5.0)[None, :, None], [5, 5, 3])[None]
    found = sobel_gradients(tf.constant(across)).numpy()[0, 2, 2]
    np.testing.assert_allclose(found, [-8, 0])  # 2 a pixel times 1 + 2 + 1
    found = sobel_gradients(tf.constant(across.transpose(0, 2, 1, 3))).numpy()[0, 2, 2]
    np.testing.assert_allclose(found, [0, -8])


def small(**options):
    model = ResNet(depth=10, width_multiplier=0.125, stem="cifar", **options)
    model.build((None, None, None, 3))
    return model


def test_a_resnet_sees_gradients_only():
    model = small(sobel=True)
    assert model.stem.convs[0].kernel.shape == (3, 3, 2, 8)
    assert model.count_params() == small().count_params() - 9 * 8
    assert type(model).from_config(model.get_config()).get_config()["sobel"] is True
    grey = np.broadcast_to(RNG.random([2, 8, 8, 1]), [2, 8, 8, 3]).astype(np.float32)
    tinted = grey + np.float32([0.1, 0, -0.1])
    np.testing.assert_allclose(model(grey), model(tinted), rtol=1e-4, atol=1e-5)
    assert np.abs(model(grey) - model(grey[:, ::-1])).max() > 1e-3


def test_it_comes_after_the_normalization():
    plain, scaled = small(sobel=True), small(sobel=True, input_std=[0.5] * 3)
    for target, source in zip(scaled.variables, plain.variables, strict=True):
        target.assign(source)
    images = tf.constant(RNG.random([2, 8, 8, 3]), tf.float32)
    np.testing.assert_allclose(scaled(images), plain(2 * images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_it_is_computed_as_the_images_are(policy):
    features = small(sobel=True, dtype=policy)(tf.constant(RNG.random([2, 8, 8, 3]), tf.float32))
    assert np.isfinite(features).all()
