import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import contrastive_metrics, nt_xent
from tfcontrast.losses.tiled_statistics import tiled_statistics


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
@pytest.mark.parametrize(("n", "m"), [(5, 9), (8, 8), (1, 6), (9, 4)])
def test_equals_the_formula(small_tiles, n, m, scale):
    rng = np.random.default_rng(n)
    q, k = scale * rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    own = rng.integers(m, size=n).astype(np.int32)
    own[0] = np.argmax(k @ q[0])
    rows = tiled_statistics(tf.constant(q), tf.constant(k), own)
    for i in range(n):
        logits = np.array([q[i] @ row for row in k])
        p = np.exp(logits - logits.max())
        p /= p.sum()
        entropy = -sum(x * np.log(x) for x in p if x > 0)
        assert float(rows.entropy[i]) == pytest.approx(entropy, abs=1e-10)
        assert bool(rows.found[i]) == (np.argmax(logits) == own[i])


@pytest.mark.parametrize("jit", [False, True])
def test_of_several_equals_the_first_is_found(small_tiles, jit):
    own = tf.range(9)
    run = tf.function(lambda z: tiled_statistics(z, z, own), jit_compile=jit)
    rows = run(tf.ones([9, 2]))
    assert rows.found.numpy().tolist() == [True] + [False] * 8
    np.testing.assert_allclose(rows.entropy, np.log(9), rtol=1e-6)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_contrastive_metrics_are_the_same_in_tiles(
    random_views, small_tiles, temperature, known, monkeypatch
):
    z1, z2 = random_views(9, 3)
    tiled = contrastive_metrics(
        z1,
        z2,
        temperature=temperature,
        nt_xent=nt_xent(z1, z2, temperature=temperature) if known else None,
    )
    monkeypatch.undo()
    dense = contrastive_metrics(z1, z2, temperature=temperature)
    for name, value in dense.items():
        assert float(tiled[name]) == pytest.approx(float(value), abs=1e-10)


def test_shards_of_contrastive_metrics_average_to_the_whole(random_views, small_tiles):
    z1, z2 = random_views(8, 3)
    parts = [
        contrastive_metrics(
            z1[k : k + 2], z2[k : k + 2], candidates=(z1, z2), first_row=tf.constant(k)
        )
        for k in range(0, 8, 2)
    ]
    for name, value in contrastive_metrics(z1, z2).items():
        assert np.mean([part[name] for part in parts]) == pytest.approx(float(value), abs=1e-12)


def test_no_gradient(small_tiles, random_views):
    z1, z2 = (tf.constant(z) for z in random_views(8, 3))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z1)
        values = contrastive_metrics(z1, z2)
    assert all(tape.gradient(value, z1) is None for value in values.values())
