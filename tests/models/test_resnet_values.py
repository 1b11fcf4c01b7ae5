"""ResNets' features against a slow network in NumPy, written from torchvision's state dict."""

import numpy as np
import pytest

from tfcontrast.models import ResNet, torchvision_state
from tfcontrast.models.resnet import DEPTHS


def _small(**options):
    options = {"depth": 10, "width_multiplier": 0.125, "stem": "cifar", **options}
    model = ResNet(**options)
    model.build((None, None, None, 3))
    return model


def _images(batch, height, width):
    return np.random.default_rng(0).random((batch, height, width, 3), "float32")


def _scatter_weights(model):
    """Weights off their initial values, so that batch norm's every term matters."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(rng.normal(0, 0.2, variable.shape))


def _conv(x, kernel, stride, dilation=1):
    """Cross-correlation in NCHW with PyTorch's layout and even padding, one tap at a time."""
    size = kernel.shape[-1]
    pad = dilation * (size - 1) // 2
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    height = (x.shape[2] - dilation * (size - 1) - 1) // stride + 1
    width = (x.shape[3] - dilation * (size - 1) - 1) // stride + 1
    y = 0
    for i in range(size):
        for j in range(size):
            rows = slice(i * dilation, i * dilation + (height - 1) * stride + 1, stride)
            columns = slice(j * dilation, j * dilation + (width - 1) * stride + 1, stride)
            y = y + np.einsum("bchw,oc->bohw", x[:, :, rows, columns], kernel[:, :, i, j])
    return y


def _norm(x, state, name):
    gamma, beta, mean, variance = (
        state[f"{name}.{part}"][:, None, None].astype("float64")
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def _max_pool(x):
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    height, width = ((side - 3) // 2 + 1 for side in x.shape[2:])
    taps = [
        x[:, :, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
        for i in range(3)
        for j in range(3)
    ]
    return np.max(taps, 0)


def _numpy_resnet(state, images, counts, bottleneck, stem, dilated_groups=()):
    """torchvision's network, restated from its state dict in float64."""
    x = np.transpose(images.astype("float64"), (0, 3, 1, 2))
    stride = {"imagenet": 2, "cifar": 1, "cifar_stride2": 2}[stem]
    x = np.maximum(_norm(_conv(x, state["conv1.weight"], stride), state, "bn1"), 0)
    if stem == "imagenet":
        x = _max_pool(x)
    dilation = 1
    for i, count in enumerate(counts, 1):
        stride, first_dilation = (1 if i == 1 else 2), dilation
        if i in dilated_groups:
            stride, dilation = 1, 2 * dilation
        for j in range(count):
            name = f"layer{i}.{j}"
            s, d = (stride, first_dilation) if j == 0 else (1, dilation)
            plan = [(s, d), (1, dilation)]
            if bottleneck:
                plan = [(1, 1), (s, d), (1, 1)]
            y = x
            for k, (step, spread) in enumerate(plan, 1):
                y = _conv(y, state[f"{name}.conv{k}.weight"], step, spread)
                y = _norm(y, state, f"{name}.bn{k}")
                y = y if k == len(plan) else np.maximum(y, 0)
            if f"{name}.downsample.0.weight" in state:
                x = _conv(x, state[f"{name}.downsample.0.weight"], s)
                x = _norm(x, state, f"{name}.downsample.1")
            x = np.maximum(x + y, 0)
    return x.mean((2, 3))


@pytest.mark.parametrize(
    ("depth", "stem", "output_stride", "dilated", "height", "width"),
    [
        (10, "imagenet", 32, (), 64, 47),
        (18, "cifar", 32, (), 17, 16),
        (18, "cifar_stride2", 32, (), 32, 31),
        (50, "imagenet", 16, (4,), 33, 64),
        (10, "imagenet", 8, (3, 4), 48, 64),
    ],
)
def test_features_are_those_of_a_numpy_network(depth, stem, output_stride, dilated, height, width):
    model = _small(depth=depth, stem=stem, output_stride=output_stride)
    _scatter_weights(model)
    images = _images(2, height, width)
    state = torchvision_state(model)
    expected = _numpy_resnet(state, images, DEPTHS[depth][1], depth >= 50, stem, dilated)
    features = model(images).numpy()
    np.testing.assert_allclose(features, expected, atol=2e-5 * np.abs(expected).max())
