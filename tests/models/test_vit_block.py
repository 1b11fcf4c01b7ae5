"""Attention and block against NumPy loops; initial values."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.models.vit_block import Attention, TransformerBlock

TOKENS = np.random.default_rng(0).normal(size=(2, 5, 12)).astype("float32")


def _value(variable):
    return np.asarray(variable, "float64")


def _scatter(layer):
    rng = np.random.default_rng(1)
    for variable in layer.variables:
        offset = 1.0 if variable.name == "gamma" else 0.0
        variable.assign(offset + rng.normal(0, 0.4, variable.shape))
    return layer


def _block(heads=3, **options):
    block = TransformerBlock(heads, initialization="dino", name="block", **options)
    block.build((None, None, 12))
    return _scatter(block)


def _slow_attention(attention, x, heads):
    width, depth = x.shape[-1], x.shape[-1] // heads
    qkv = x @ _value(attention.qkv.kernel) + _value(attention.qkv.bias)
    query, key, value = qkv[..., :width], qkv[..., width : 2 * width], qkv[..., 2 * width :]
    result = np.zeros_like(x)
    for b in range(len(x)):
        for h in range(heads):
            part = slice(h * depth, (h + 1) * depth)
            for i in range(x.shape[1]):
                scores = [query[b, i, part] @ k[part] / math.sqrt(depth) for k in key[b]]
                shares = np.exp(scores) / np.exp(scores).sum()
                result[b, i, part] = sum(s * v[part] for s, v in zip(shares, value[b], strict=True))
    return result @ _value(attention.output_dense.kernel) + _value(attention.output_dense.bias)


def _slow_norm(norm, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * _value(norm.gamma) + _value(norm.beta)


def _slow_block(block, x, heads, factors):
    attended = _slow_attention(block.attention, _slow_norm(block.norm1, x), heads)
    x = x + attended * factors[0][:, None, None]
    inner = _slow_norm(block.norm2, x) @ _value(block.dense1.kernel) + _value(block.dense1.bias)
    inner = np.vectorize(lambda t: t * 0.5 * (1 + math.erf(t / math.sqrt(2))))(inner)
    inner = inner @ _value(block.dense2.kernel) + _value(block.dense2.bias)
    return x + inner * factors[1][:, None, None]


@pytest.mark.parametrize("heads", [1, 3, 6])
def test_attention_is_a_loop(heads):
    attention = Attention(heads, initialization="dino", name="attention")
    attention.build((None, None, 12))
    _scatter(attention)
    expected = _slow_attention(attention, TOKENS.astype("float64"), heads)
    np.testing.assert_allclose(attention(TOKENS), expected, atol=1e-5)


@pytest.mark.parametrize("factors", [None, [[0.0, 1.0], [2.0, 0.0]]])
def test_block_is_a_loop(factors):
    block = _block()
    # a small deviation, so that epsilon counts
    x = TOKENS * np.array([1.0, 1e-3], "float32")[:, None, None]
    given = None if factors is None else tf.constant(factors)
    expected = _slow_block(block, x.astype("float64"), 3, np.array(factors or np.ones((2, 2))))
    np.testing.assert_allclose(block(x, factors=given), expected, atol=2e-5)


def test_mixed_precision_keeps_tokens_norms_and_softmax_in_float32(monkeypatch):
    block = _block(dtype="mixed_bfloat16")
    seen, softmax = [], tf.nn.softmax
    monkeypatch.setattr(tf.nn, "softmax", lambda x: seen.append(x.dtype.name) or softmax(x))
    result = block(TOKENS)
    assert result.dtype == tf.float32
    assert block.norm1(TOKENS).dtype == tf.float32
    assert block.attention(TOKENS).dtype == tf.bfloat16
    assert set(seen) == {"float32"}
    expected = _slow_block(block, TOKENS.astype("float64"), 3, np.ones((2, 2)))
    assert np.abs(result - expected).max() < 0.03 * np.abs(expected).max()
    assert _block(dtype="float64")(TOKENS.astype("float64")).dtype == tf.float64


def test_initial_values_of_both_sources():
    for source, deviation in (("dino", None), ("moco_v3", (96, 96))):
        block = TransformerBlock(3, initialization=source, name="block")
        block.build((None, None, 96))
        layers = (block.attention.qkv, block.attention.output_dense, block.dense1, block.dense2)
        fans = [(96, 96), deviation or (96, 96), (96, 384), (384, 96)]
        for dense, (fan_in, fan_out) in zip(layers, fans, strict=True):
            assert not np.any(dense.bias)
            if source == "dino":
                assert np.std(dense.kernel) == pytest.approx(0.02, rel=0.03)
            else:
                limit = math.sqrt(6 / (fan_in + fan_out))
                assert np.abs(dense.kernel).max() == pytest.approx(limit, rel=0.01)
                assert np.std(dense.kernel) == pytest.approx(limit / math.sqrt(3), rel=0.03)
        np.testing.assert_array_equal(block.norm1.gamma, 1)
        assert not np.array_equal(block.dense1.kernel, np.transpose(block.dense2.kernel))
