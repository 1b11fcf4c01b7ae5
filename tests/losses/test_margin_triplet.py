import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import margin_triplet


def loop_margin_triplet(z1, z2, margin, mining="none"):
    z = [v / np.linalg.norm(v) for v in np.concatenate([z1, z2])]
    n, losses = len(z1), []
    for i in range(2 * n):
        p = (i + n) % (2 * n)
        positive = z[i] @ z[p]
        others = [z[i] @ z[k] for k in range(2 * n) if k not in (i, p)]
        if mining == "semi_hard":
            others = [s for s in others if positive - margin < s < positive]
            others = [max(others)] if others else []
        losses.append(np.mean([max(s - positive + margin, 0) for s in others] or [0.0]))
    return np.mean(losses)


def test_golden_value(golden_views):
    z1, z2, _ = golden_views
    assert float(margin_triplet(z1, z2, margin=0.5)) == pytest.approx(0.1584838078, abs=1e-9)
    single = margin_triplet(z1.astype(np.float32), z2.astype(np.float32), margin=0.5)
    assert float(single) == pytest.approx(0.1584838078, abs=1e-6)


@pytest.mark.parametrize("b", [1, 2, 6])
@pytest.mark.parametrize("margin", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("mining", ["none", "semi_hard"])
def test_equals_the_loop(random_views, b, margin, mining):
    z1, z2 = random_views(b, 4)
    value = float(margin_triplet(z1, z2, margin=margin, mining=mining))
    assert value == pytest.approx(loop_margin_triplet(z1, z2, margin, mining), abs=1e-10)


def test_collapse_gives_the_margin_and_nothing_to_mine():
    z = tf.ones([4, 3])
    assert float(margin_triplet(z, z, margin=0.3)) == pytest.approx(0.3)
    assert float(margin_triplet(z, z, margin=0.3, mining="semi_hard")) == 0


def test_satisfied_triplets_contribute_nothing():
    z = tf.eye(4)
    with tf.GradientTape() as tape:
        tape.watch(z)
        value = margin_triplet(z, z, margin=0.9)
    assert float(value) == 0
    assert not tape.gradient(value, z).numpy().any()


def test_order_of_images_and_views_does_not_matter(random_views):
    z1, z2 = random_views(6, 4)
    order = np.random.default_rng(0).permutation(6)
    for mining in ("none", "semi_hard"):
        value = float(margin_triplet(z1, z2, mining=mining))
        moved = float(margin_triplet(z2[order], 7 * z1[order], mining=mining))
        assert moved == pytest.approx(value)


@pytest.mark.parametrize("mining", ["none", "semi_hard"])
def test_gradient_is_that_of_finite_differences(random_views, check_gradient, mining):
    check_gradient(
        lambda a, b: margin_triplet(a, b, margin=0.7, mining=mining), *random_views(5, 4)
    )


@pytest.mark.parametrize("mining", ["none", "semi_hard"])
@pytest.mark.parametrize("shards", [2, 4])
def test_shards_average_to_the_whole(random_views, mining, shards):
    z1, z2 = random_views(8, 5)
    size = 8 // shards
    parts = [
        margin_triplet(
            z1[k : k + size], z2[k : k + size], mining=mining, candidates=(z1, z2), first_row=k
        )
        for k in range(0, 8, size)
    ]
    assert np.mean(parts) == pytest.approx(float(margin_triplet(z1, z2, mining=mining)), abs=1e-12)


@pytest.mark.parametrize("mining", ["none", "semi_hard"])
def test_compiled_and_half_precision_agree(random_views, mining):
    z1, z2 = (tf.constant(z, tf.float32) for z in random_views(8, 16))
    value = float(margin_triplet(z1, z2, mining=mining))
    compiled = tf.function(lambda a, b: margin_triplet(a, b, mining=mining), jit_compile=True)
    assert float(compiled(z1, z2)) == pytest.approx(value, rel=1e-5)
    half = margin_triplet(tf.cast(z1, tf.bfloat16), tf.cast(z2, tf.bfloat16), mining=mining)
    assert float(half) == pytest.approx(value, abs=2e-2)


@pytest.mark.parametrize("mining", ["none", "semi_hard"])
@pytest.mark.parametrize("case", ["one image", "zeros", "duplicates"])
def test_finite_at_the_edges(random_views, assert_finite, mining, case):
    z1, z2 = random_views(1 if case == "one image" else 4, 6)
    if case == "zeros":
        z1, z2 = z1 * 0, z2 * 0
    if case == "duplicates":
        z1[1], z2[1] = z1[0], z2[0]
    value, _ = assert_finite(lambda a, b: margin_triplet(a, b, mining=mining), z1, z2)
    if case == "one image":
        assert value == 0


@pytest.mark.parametrize("options", [{"margin": 0}, {"margin": -1}, {"mining": "hard"}])
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        margin_triplet(tf.ones([2, 3]), tf.ones([2, 3]), **options)
