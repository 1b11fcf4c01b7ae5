"""Selective kernels and squeeze-and-excitation against their equations in NumPy."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import BatchNorm
from tfcontrast.models.attention import SelectiveKernelConv, SqueezeExcite
from tfcontrast.models.convolution import Conv


def _images():
    return np.random.default_rng(0).normal(size=(3, 6, 6, 4)).astype("float32")


def _selective(filters=8, **options):
    options = {"strides": 1, "dilation": 1, "ratio": 0.5, **options}
    layer = SelectiveKernelConv(
        filters, norm=functools.partial(_norm, momentum=0.9), name="selective_kernel", **options
    )
    layer.build((None, None, None, 4))
    return layer


def _norm(name, **options):
    return BatchNorm(name=name, **options)


@pytest.mark.parametrize("strides", [1, 2])
def test_selective_kernel_is_a_softmax_of_two_streams(strides):
    layer = _selective(strides=strides)
    conv = Conv(16, 3, strides=strides, name="conv")
    conv.build((None, None, None, 4))
    conv.kernel.assign(layer.conv.kernel)
    epsilon_scale = 1 / np.sqrt(1 + 1e-5)  # batch norm at its initial statistics
    x = np.maximum(conv(_images()).numpy() * epsilon_scale, 0)
    first, second = x[..., :8], x[..., 8:]
    context = (first + second).mean((1, 2)) @ layer.reduce.kernel.numpy()[0, 0]
    logits = np.maximum(context * epsilon_scale, 0) @ layer.expand.kernel.numpy()[0, 0]
    logits = np.stack([logits[:, :8], logits[:, 8:]])
    weights = np.exp(logits) / np.exp(logits).sum(0)
    expected = weights[0][:, None, None] * first + weights[1][:, None, None] * second
    np.testing.assert_allclose(layer(_images()), expected, atol=1e-5)


@pytest.mark.parametrize(("filters", "ratio", "reduced"), [(8, 0.5, 32), (128, 0.5, 64)])
def test_selective_kernel_keeps_32_channels_at_least(filters, ratio, reduced):
    assert _selective(filters, ratio=ratio).reduce.kernel.shape == (1, 1, filters, reduced)


def test_selective_kernel_compiles_with_xla():
    layer = _selective()
    np.testing.assert_allclose(
        tf.function(layer, jit_compile=True)(_images()), layer(_images()), atol=1e-5
    )


def test_squeeze_excite_gates_channels():
    layer = SqueezeExcite(2, name="squeeze_excite")
    layer.build((None, None, None, 4))
    layer.reduce.bias.assign([0.1, 0.2])
    layer.expand.bias.assign([0.1, -0.2, 0.3, 0.0])
    x = _images()
    hidden = np.maximum(x.mean((1, 2)) @ layer.reduce.kernel.numpy() + [0.1, 0.2], 0)
    logits = hidden @ layer.expand.kernel.numpy() + [0.1, -0.2, 0.3, 0.0]
    gates = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(layer(x), x * gates[:, None, None], atol=1e-5)
