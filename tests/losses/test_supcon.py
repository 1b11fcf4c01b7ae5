import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.losses import nt_xent, supcon

LABELS = {
    "mixed": [0, 1, 0, 2, 1, 0],
    "unique": [0, 1, 2, 3, 4, 5],
    "equal": [3, 3, 3, 3, 3, 3],
    "part": [0, -1, 0, -1, 1, -1],
}


def loop_supcon(
    embeddings,
    labels,
    t=0.1,
    variant="out",
    denominator="all",
    cap=None,
    anchors="all",
):
    """Equations 2 and 3 of arXiv:2004.11362, view by view, with the options of the code."""
    b, v, _ = embeddings.shape
    z = {
        (i, w): embeddings[i, w] / np.linalg.norm(embeddings[i, w])
        for i, w in itertools.product(range(b), range(v))
    }
    losses = []
    for i, w in z:
        if anchors == "first" and w > 0:
            continue
        same = [j for j in range(b) if j != i and labels[j] == labels[i] and labels[i] != -1]
        kept = same if cap is None else same[: cap // v]
        positives = [(j, u) for j in kept for u in range(v)] + [(i, u) for u in range(v) if u != w]
        negatives = [(j, u) for j in range(b) if j != i and j not in same for u in range(v)]

        def similarity(key, anchor=(i, w)):
            return np.exp(z[anchor] @ z[key] / t)

        ratios = []
        for p in positives:
            columns = {
                "all": positives + negatives,
                "one_positive": [p, *negatives],
                "only_negatives": negatives,
            }[denominator]
            if negatives or denominator != "only_negatives":
                ratios.append(similarity(p) / sum(similarity(k) for k in columns))
        if not ratios:
            losses.append(0.0)
        elif variant == "out":
            losses.append(-np.mean(np.log(ratios)))
        else:
            losses.append(-np.log(np.mean(ratios)))
    return np.mean(losses)


def batch(b, v, d, seed=0):
    rng = np.random.default_rng(seed)
    return 2 * (rng.normal(size=(b, 1, d)) + rng.normal(size=(b, v, d)))


@pytest.mark.parametrize(
    ("variant", "temperature", "value"),
    [
        ("out", 0.5, 1.8208119966),
        ("out", 0.1, 3.7280096547),
        ("in", 0.5, 1.6353786274),
        ("in", 0.1, 1.4311927867),
    ],
)
def test_golden_values(golden_views, variant, temperature, value):
    z1, z2, labels = golden_views
    z = np.stack([z1, z2], axis=1)
    ours = supcon(z, labels, temperature=temperature, variant=variant)
    assert float(ours) == pytest.approx(value, abs=1e-9)
    single = supcon(z.astype(np.float32), labels, temperature=temperature, variant=variant)
    assert single.dtype == tf.float32
    assert float(single) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("denominator", ["all", "one_positive", "only_negatives"])
@pytest.mark.parametrize("v", [1, 2, 3])
def test_equals_the_papers_formulas(labels, variant, denominator, v):
    y = np.array(LABELS[labels])
    settings = ((0.1, "all"), (0.8, "first"))
    for (temperature, anchors), cap in itertools.product(settings, (None, 0, 2, 3)):
        z = batch(6, v, 5)
        ours = supcon(
            z,
            y,
            temperature=temperature,
            variant=variant,
            denominator=denominator,
            positives_cap=cap,
            anchors=anchors,
        )
        expected = loop_supcon(z, y, temperature, variant, denominator, cap, anchors)
        assert float(ours) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("b", [1, 2, 6])
@pytest.mark.parametrize("variant", ["out", "in"])
def test_unique_labels_and_two_views_are_nt_xent(b, variant):
    z = batch(b, 2, 4)
    for labels in (np.arange(b), np.full(b, -1)):
        value = float(supcon(z, labels, temperature=0.2, variant=variant))
        assert value == pytest.approx(float(nt_xent(z[:, 0], z[:, 1], temperature=0.2)), abs=1e-10)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("denominator", ["all", "one_positive", "only_negatives"])
def test_in_is_at_most_out(seed, denominator):
    z, y = batch(6, 2, 3, seed), np.array(LABELS["mixed"])
    inside = supcon(z, y, variant="in", denominator=denominator)
    assert float(inside) < float(supcon(z, y, variant="out", denominator=denominator))


@pytest.mark.parametrize("variant", ["out", "in"])
@pytest.mark.parametrize("labels", LABELS)
def test_collapsed_embeddings_give_log_of_the_candidates(variant, labels):
    value = supcon(tf.ones([6, 2, 4]), np.array(LABELS[labels]), variant=variant)
    assert float(value) == pytest.approx(np.log(11), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_four_equidistant_vectors_give_log_three(temperature):
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float64)
    for labels in ([0, 1], [0, 0]):
        value = supcon(corners.reshape(2, 2, 3), np.array(labels), temperature=temperature)
        assert float(value) == pytest.approx(np.log(3), abs=1e-9)


@pytest.mark.parametrize(
    ("scale", "factor"), [("none", 1), ("temperature", 0.2), ("base", 0.2 / 0.07)]
)
def test_scales(scale, factor):
    z, y = batch(6, 2, 3), np.array(LABELS["mixed"])
    plain = float(supcon(z, y, temperature=0.2))
    scaled = float(supcon(z, y, temperature=0.2, scale=scale))
    assert scaled == pytest.approx(factor * plain, rel=1e-10)


@pytest.mark.parametrize("label_type", [np.int32, np.int64, np.uint8])
def test_labels_of_any_integer_type(label_type):
    z, y = batch(6, 2, 3), np.array(LABELS["mixed"])
    assert float(supcon(z, y.astype(label_type))) == float(supcon(z, y))


def test_order_of_images_views_and_length_do_not_matter():
    z, y = batch(6, 3, 4), np.array(LABELS["part"])
    order = np.random.default_rng(5).permutation(6)
    scales = np.random.default_rng(6).uniform(0.1, 10, size=(6, 3, 1))
    for variant in ("out", "in"):
        value = float(supcon(z, y, variant=variant))
        moved = (scales * z)[order][:, [2, 0, 1]]
        assert float(supcon(moved, y[order], variant=variant)) == pytest.approx(value, abs=1e-10)


def test_unlabelled_images_attract_their_own_views_only():
    z = tf.Variable(batch(3, 2, 4))
    with tf.GradientTape() as tape:
        value = supcon(z, np.array([-1, -1, -1]))
    own = nt_xent(z[:, 0], z[:, 1])
    assert float(value) == pytest.approx(float(own), abs=1e-10)
    assert float(value) != pytest.approx(float(supcon(z, np.array([0, 0, 0]))), abs=1e-3)
    assert tape.gradient(value, z).numpy().any()


def test_an_anchor_without_positives_contributes_zero_and_counts():
    # one view, labels 0 0 1: only the first two have a positive; with three anchors in the mean
    z, y = batch(3, 1, 4), np.array([0, 0, 1])
    unit = z[:, 0] / np.linalg.norm(z[:, 0], axis=1, keepdims=True)
    s = unit @ unit.T / 0.1
    first = -s[0, 1] + np.log(np.exp(s[0, 1]) + np.exp(s[0, 2]))
    second = -s[1, 0] + np.log(np.exp(s[1, 0]) + np.exp(s[1, 2]))
    assert float(supcon(z, y)) == pytest.approx((first + second) / 3, abs=1e-10)


def test_a_dropped_positive_has_no_influence():
    z, y = batch(5, 2, 4), np.array([0, 0, 0, 0, 1])
    tensor = tf.constant(z)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        # image 0's only kept neighbour is image 1; anchors of image 0 alone: a block of one image
        value = supcon(
            tf.stop_gradient(tensor[:1]),
            y[:1],
            positives_cap=2,
            candidates=(tensor, y),
        )
    gradient = np.abs(tape.gradient(value, tensor).numpy()).max(axis=(1, 2))
    assert (gradient[[2, 3]] == 0).all()
    assert (gradient[[0, 1, 4]] > 1e-6).all()


@pytest.mark.parametrize("shards", [2, 4])
@pytest.mark.parametrize("cap", [None, 2])
@pytest.mark.parametrize("anchors", ["all", "first"])
def test_shards_average_to_the_whole_in_value_and_gradient(shards, cap, anchors):
    z, y = tf.constant(batch(8, 2, 5)), tf.constant([0, 1, 0, -1, 1, 0, 2, 0])
    size = 8 // shards
    options = {"temperature": 0.3, "positives_cap": cap, "anchors": anchors}

    def sharded(rows):
        losses = [
            supcon(
                rows[k : k + size],
                y[k : k + size],
                candidates=(rows, y),
                first_row=tf.constant(k),
                **options,
            )
            for k in range(0, 8, size)
        ]
        return tf.add_n(losses) / shards

    results = []
    for loss in (lambda rows: supcon(rows, y, **options), sharded):
        with tf.GradientTape() as tape:
            tape.watch(z)
            value = loss(z)
        results.append([value, tape.gradient(value, z)])
    for one, many in zip(*results, strict=True):
        np.testing.assert_allclose(many, one, atol=1e-12)
