import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import contrastive_accuracy, in_batch_info_nce, in_batch_logits


def loop_in_batch(q, k, t):
    """For every query, the softmax over all keys."""
    losses = []
    for i in range(len(q)):
        scores = [q[i] @ row / np.linalg.norm(q[i]) / np.linalg.norm(row) / t for row in k]
        losses.append(np.log(np.sum(np.exp(scores))) - scores[i])
    return np.mean(losses)


def test_golden_value_of_both_directions(golden_views):
    z1, z2, _ = golden_views

    def loss(q, k):
        return in_batch_info_nce(q, k, temperature=0.2, scale="twice_temperature")

    value = float(loss(z1, z2) + loss(z2, z1))
    assert value == pytest.approx(0.2714372731, abs=1e-9)
    z1, z2 = z1.astype(np.float32), z2.astype(np.float32)
    assert float(loss(z1, z2) + loss(z2, z1)) == pytest.approx(0.2714372731, abs=1e-6)


@pytest.mark.parametrize("gradient_to", ["queries", "keys"])
@pytest.mark.parametrize("b", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_the_loop(random_views, gradient_to, b, temperature):
    q, k = random_views(b, 3)
    value = in_batch_info_nce(q, k, temperature=temperature, gradient_to=gradient_to)
    assert float(value) == pytest.approx(loop_in_batch(q, k, temperature), abs=1e-10)
    if b == 5:  # the softmax runs over keys, not over queries
        assert abs(float(value) - loop_in_batch(k, q, temperature)) > 1e-3


@pytest.mark.parametrize("b", [1, 2, 7])
def test_collapsed_rows_give_log_of_the_batch(b):
    z = tf.ones([b, 4])
    value = float(in_batch_info_nce(z, z, temperature=0.2))
    assert value == pytest.approx(np.log(b), abs=1e-6)
    scaled = float(in_batch_info_nce(z, z, temperature=0.2, scale="twice_temperature"))
    assert 2 * scaled == pytest.approx(2 * 2 * 0.2 * np.log(b), abs=1e-6)


def test_order_and_length_do_not_matter(random_views):
    q, k = random_views(6, 8)
    value = float(in_batch_info_nce(q, k, temperature=0.2))
    order = np.random.default_rng(3).permutation(6)
    permuted = float(in_batch_info_nce(q[order], k[order], temperature=0.2))
    assert permuted == pytest.approx(value, abs=1e-10)
    assert float(in_batch_info_nce(10 * q, k / 7, temperature=0.2)) == pytest.approx(value)
    assert float(in_batch_info_nce(q, k[order], temperature=0.2)) > value


@pytest.mark.parametrize(("gradient_to", "learner"), [("queries", 0), ("keys", 1)])
def test_one_side_learns(random_views, check_gradient, gradient_to, learner):
    sides = [tf.constant(z) for z in random_views(4, 5)]

    def loss(q, k):
        return in_batch_info_nce(q, k, temperature=0.3, gradient_to=gradient_to)

    with tf.GradientTape() as tape:
        tape.watch(sides)
        value = loss(*sides)
    gradients = tape.gradient(value, sides)
    assert np.abs(gradients[learner]).max() > 1e-3
    assert gradients[1 - learner] is None

    def of_learner(rows):
        return loss(rows, sides[1]) if learner == 0 else loss(sides[0], rows)

    check_gradient(of_learner, sides[learner].numpy())


@pytest.mark.parametrize("gradient_to", ["queries", "keys"])
@pytest.mark.parametrize("shards", [2, 4])
def test_shards_average_to_the_whole_in_value_and_gradient(random_views, shards, gradient_to):
    sides = [tf.constant(z) for z in random_views(8, 5)]
    size = 8 // shards

    def whole(q, k):
        return in_batch_info_nce(q, k, temperature=0.3, gradient_to=gradient_to)

    def sharded(q, k):
        parts = [
            in_batch_info_nce(
                q[r : r + size],
                k[r : r + size],
                temperature=0.3,
                gradient_to=gradient_to,
                candidates=k,
                first_row=r,
            )
            for r in range(0, 8, size)
        ]
        return tf.add_n(parts) / shards

    results = []
    for loss in (whole, sharded):
        with tf.GradientTape() as tape:
            tape.watch(sides)
            value = loss(*sides)
        gradients = tape.gradient(value, sides, unconnected_gradients="zero")
        results.append([value, *gradients])
    for one, many in zip(*results, strict=True):
        np.testing.assert_allclose(many, one, atol=1e-12)


def test_logits_name_their_targets(random_views):
    q, k = random_views(6, 8)
    logits, targets = in_batch_logits(
        q[2:4], k[2:4], temperature=0.5, candidates=k, first_row=tf.constant(2)
    )
    assert targets.numpy().tolist() == [2, 3]
    every, _ = in_batch_logits(q, k, temperature=0.5)
    np.testing.assert_allclose(logits, every[2:4])
    expected = np.mean(np.argmax(every[2:4], axis=1) == [2, 3])
    assert float(contrastive_accuracy(logits, targets)) == expected


@pytest.mark.parametrize("gradient_to", ["queries", "keys"])
@pytest.mark.parametrize("temperature", [1e-3, 0.1])
@pytest.mark.parametrize("case", ["one image", "zeros", "one zero", "equal"])
def test_finite_at_the_edges(random_views, assert_finite, case, temperature, gradient_to):
    q, k = (z.astype(np.float32) for z in random_views(1 if case == "one image" else 4, 6))
    if case == "zeros":
        q, k = q * 0, k * 0
    if case == "one zero":
        q[1] = k[1] = 0
    if case == "equal":
        k = q
    options = {"temperature": temperature, "gradient_to": gradient_to}

    def loss(rows):
        if gradient_to == "queries":
            return in_batch_info_nce(rows, k, **options)
        return in_batch_info_nce(q, rows, **options)

    value, (gradient,) = assert_finite(loss, q if gradient_to == "queries" else k)
    if case == "one image":
        assert value == 0
    if case == "one zero":
        assert (gradient[1] == 0).all()


def test_bad_arguments_are_refused():
    z = tf.ones([2, 3])
    for options in (
        {"temperature": 0},
        {"scale": "half"},
        {"gradient_to": "both"},
        {"first_row": 1},
        {"candidates": tf.ones([4, 2])},
        {"candidates": tf.ones([4, 3]), "first_row": 3},
    ):
        with pytest.raises(ValueError, match="Received: "):
            in_batch_info_nce(z, z, **{"temperature": 0.1, **options})
    with pytest.raises(ValueError, match="Received: "):
        in_batch_info_nce(z, tf.ones([3, 3]), temperature=0.1)
