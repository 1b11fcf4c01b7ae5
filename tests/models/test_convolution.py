"""The convolution's padding against TensorFlow's op on an explicitly padded image."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models import convolution
from tfcontrast.models.convolution import Conv, build_chain


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("height", [7, 8])
@pytest.mark.parametrize(
    ("size", "strides", "dilation"),
    [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (7, 2, 1), (3, 1, 2)],
)
def test_pads_both_sides_alike(monkeypatch, height, size, strides, dilation, accelerator):
    monkeypatch.setattr(convolution, "has_accelerator", lambda: accelerator)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, height, 9, 3)), tf.float32)
    layer = Conv(4, size, strides=strides, dilation=dilation, name="conv")
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.square(y))
    gradients = tape.gradient(loss, [x, layer.kernel.value])
    pad = dilation * (size - 1) // 2
    with tf.GradientTape() as tape:
        tape.watch(x)
        padded = tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]])
        expected = tf.nn.convolution(
            padded, layer.kernel.value, strides, "VALID", dilations=dilation
        )
        loss = tf.reduce_sum(tf.square(expected))
    expected_gradients = tape.gradient(loss, [x, layer.kernel.value])
    assert y.shape == (2, -(-height // strides), -(-9 // strides), 4)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "accelerator", "padding"),
    [(3, False, b"VALID"), (3, True, b"EXPLICIT"), (1, False, b"VALID"), (1, True, b"VALID")],
)
def test_the_padding_of_the_gradients_ops(monkeypatch, size, accelerator, padding):
    monkeypatch.setattr(convolution, "has_accelerator", lambda: accelerator)
    layer = Conv(4, size, strides=2, name="conv")
    layer.build((None, None, None, 3))

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return tape.gradient(y, [x, layer.kernel.value])

    graph = gradients.get_concrete_function(tf.TensorSpec([2, 8, 8, 3])).graph
    convolutions = [op for op in graph.get_operations() if op.type.startswith("Conv2D")]
    assert {op.type for op in convolutions} == {
        "Conv2D",
        "Conv2DBackpropInput",
        "Conv2DBackpropFilter",
    }
    assert {op.get_attr("padding") for op in convolutions} == {padding}


def test_has_no_bias():
    layer = Conv(4, 3, name="conv")
    layer.build((None, None, None, 2))
    assert [v.name for v in layer.variables] == ["kernel"]


def test_build_chain_passes_channels_on():
    layers = [Conv(4, 3, name="a"), Conv(6, 1, name="b")]
    assert build_chain(2, layers) == 6
    assert [tuple(layer.kernel.shape) for layer in layers] == [(3, 3, 2, 4), (1, 1, 4, 6)]
