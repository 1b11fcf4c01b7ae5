"""ResNet-D's shortcut in numbers, and where squeeze-and-excitation and selective kernels go."""

import numpy as np
import pytest

from tfcontrast.models.blocks import BasicBlock, BlockOptions, Bottleneck, Shortcut

IMAGES = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype("float32")


def _average(x, strides):
    """2x2 means: strided, of the image with zeros added at its end; else of what exists."""
    batch, height, width, channels = x.shape
    rows, columns = -(-height // strides), -(-width // strides)
    y = np.zeros((batch, rows, columns, channels))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * strides : i * strides + 2, j * strides : j * strides + 2]
            count = 4 if strides > 1 else window.shape[1] * window.shape[2]
            y[:, i, j] = window.sum((1, 2)) / count
    return y


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("sk_ratio", [0.0, 0.0625])
def test_shortcut_averages_before_it_projects_with_selective_kernels(strides, sk_ratio):
    layer = Shortcut(4, strides=strides, options=BlockOptions(sk_ratio=sk_ratio), name="shortcut")
    pooled = _average(IMAGES, strides) if sk_ratio else IMAGES[:, ::strides, ::strides]
    y = layer(IMAGES)
    expected = pooled @ layer.conv.kernel.numpy()[0, 0] / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize(("block", "channels"), [(BasicBlock, 4), (Bottleneck, 16)])
def test_squeeze_excite_width_is_relative_to_the_inner_width(block, channels):
    layer = block(
        4,
        strides=1,
        dilations=(1, 1),
        project=True,
        options=BlockOptions(se_ratio=0.5),
        name="block",
    )
    layer.build((None, None, None, 3))
    assert layer.squeeze_excite.reduce.kernel.shape == (channels, 2)
    gated = layer(IMAGES).numpy()
    layer.squeeze_excite.expand.bias.assign(np.full(channels, -50.0))  # gates shut
    shut = layer(IMAGES).numpy()
    shortcut = layer.shortcut(IMAGES).numpy()
    np.testing.assert_allclose(shut, np.maximum(shortcut, 0), atol=1e-6)
    assert np.abs(gated - shut).max() > 1e-3


def test_only_bottlenecks_have_selective_kernels():
    common = {"strides": 2, "dilations": (1, 1), "project": True, "name": "block"}
    options = BlockOptions(sk_ratio=0.0625)
    assert Bottleneck(4, options=options, **common).selective_kernel is not None
    assert not hasattr(BasicBlock(4, options=options, **common), "selective_kernel")
