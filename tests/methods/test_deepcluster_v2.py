import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import data
from tfcontrast.errors import UserError
from tfcontrast.evaluate import normalized_mutual_information
from tfcontrast.methods import DeepClusterV2, DeepClusterV2Config, Plan
from tfcontrast.models import kmeans

PLAN = Plan(batch_size=8, num_examples=24, steps_per_epoch=3, total_steps=30, seed=5)
TINY = {
    "num_local_views": 0, "proj_hidden_dim": 8, "proj_out_dim": 5, "num_prototypes": 4,
    "num_clusterings": 3, "kmeans_iterations": 4,
}  # fmt: skip


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def tiny(tiny_backbone, *, plan=PLAN, cls=DeepClusterV2, **options):
    method = cls(tiny_backbone(), DeepClusterV2Config(**{**TINY, **options}), plan=plan)
    method.compile(optimizer=keras.optimizers.SGD(0.02, momentum=0.9), jit_compile=False)
    method.prepare(8)
    return method


def over(images):
    """The ``run_over`` of these images, in batches of 8."""

    def run_over(function):
        parts = [function(tf.constant(part)) for part in np.split(images, len(images) // 8)]
        return np.concatenate([part.numpy() for part in parts])

    return run_over


def batch_of(rng, *, size=8, sides=(8, 8), index=None):
    return {
        "views": tuple(tf.constant(rng.random([size, s, s, 3]), tf.float32) for s in sides),
        "label": tf.zeros([size], tf.int64),
        "index": tf.constant(np.arange(size) if index is None else index, tf.int64),
    }


def values(method):
    return {v.path: v.numpy().copy() for v in method.variables}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def images(rng):
    return rng.random([24, 8, 8, 3]).astype(np.float32)


def test_the_first_epoch_fills_the_banks_by_the_batches_statistics(tiny_backbone, images):
    method = tiny(tiny_backbone)
    before = values(method)
    method.begin_epoch(0, over(images))
    expected = []
    for part in np.split(images, 3):
        features = tiny_backbone_of(method)(tf.constant(part), training=True)
        expected.append(unit(copy_of(method.projector)(features, training=True).numpy()))
    for bank in method.banks:
        np.testing.assert_allclose(bank.read(), np.concatenate(expected), atol=1e-5)
    after = values(method)
    changed = {name.split("/")[-1] for name in before if np.any(before[name] != after[name])}
    # NMI needs a clustering before this one; no weight and no moving statistic has moved.
    assert changed == {"rows", "centroids", "clusters", "clusterings_done", "cluster_use"}
    assert {bank.momentum for bank in (method.backbone.norm1, method.backbone.norm2)} == {0.9}


def copy_of(network):
    """The same network of its own, so that a pass leaves the method alone."""
    copy = type(network).from_config(network.get_config())
    copy.build((None, network.dense_layers[0].kernel.shape[0]))
    copy.set_weights(network.get_weights())
    return copy


def tiny_backbone_of(method):
    copy = type(method.backbone)()
    copy(tf.zeros([1, 8, 8, 3]))
    copy.set_weights(method.backbone.get_weights())
    return copy


def test_every_head_clusters_its_bank_with_a_seed_of_its_own(tiny_backbone, rng, images):
    method = tiny(tiny_backbone)
    method.begin_epoch(0, over(images))
    # Banks that differ, as after an epoch.
    for bank in method.banks:
        rows = tf.constant(unit(rng.normal(size=(24, 5))), tf.float32)
        bank.update(tf.range(24, dtype=tf.int64), rows, momentum=0.0)
    old = method.clusters.numpy().copy()
    method.begin_epoch(1, lambda function: pytest.fail("a full bank was filled again"))
    centroids, clusters = method.centroids.numpy(), method.clusters.numpy()
    for head in range(3):
        rows = method.banks[head % 2].read().numpy()
        found = kmeans(rows, 4, iterations=4, seed=method._seed(1, head), spherical=True)
        np.testing.assert_array_equal(centroids[head], found.centroids)
        np.testing.assert_array_equal(clusters[head], found.assignments)
        np.testing.assert_allclose(np.linalg.norm(centroids[head], axis=1), 1, atol=1e-6)
        np.testing.assert_array_equal(clusters[head], (rows @ centroids[head].T).argmax(1))
    assert np.any(centroids[0] != centroids[2])
    assert len({method._seed(epoch, head) for epoch in range(3) for head in range(3)}) == 9
    nmi = np.mean([normalized_mutual_information(old[h], clusters[h]) for h in range(3)])
    assert float(method.cluster_nmi) == pytest.approx(nmi)
    assert float(method.cluster_use) == pytest.approx(
        np.mean([len(set(row)) for row in clusters]) / 4
    )


def test_as_many_clusters_as_images_give_each_its_own(tiny_backbone, images):
    method = tiny(tiny_backbone, num_prototypes=24)
    method.begin_epoch(0, over(images))
    for row in method.clusters.numpy():
        assert sorted(row) == list(range(24))
    assert float(method.cluster_use) == 1


@pytest.mark.parametrize("crops", [2, 3])
def test_the_loss_classifies_every_crop_of_known_images(tiny_backbone, rng, crops):
    method = tiny(tiny_backbone, temperature=0.3)
    table = rng.integers(0, 4, [3, 24])
    table[1, 6] = -100
    method.clusters.assign(table)
    index = np.array([3, 6, 6, 20])
    scores = rng.normal(size=(3, 4 * crops, 4))
    rows = tf.constant(rng.normal(size=(4 * crops, 5)), tf.float32)
    outputs = {
        "features": rows, "embeddings": rows, "scores": tf.constant(scores, tf.float32)
    }  # fmt: skip
    found = method.compute_losses(outputs, {"index": tf.constant(index, tf.int64)})
    assert tuple(found) == DeepClusterV2.metric_names
    heads, hits = [], []
    for head in range(3):
        terms = []
        for row in range(4 * crops):
            target, logits = table[head, index[row % 4]], scores[head, row] / 0.3
            hits.append(logits.argmax() == target)
            if target >= 0:
                terms.append(np.log(np.exp(logits).sum()) - logits[target])
        heads.append(np.mean(terms))
    assert float(found["loss"]) == pytest.approx(np.mean(heads), rel=1e-5)
    assert float(found["cluster_accuracy"]) == pytest.approx(np.mean(hits), rel=1e-6)


def test_no_cluster_no_loss(tiny_backbone, rng):
    method = tiny(tiny_backbone)
    batch = batch_of(rng)
    with tf.GradientTape() as tape:
        loss = method.compute_losses(method(batch["views"], training=True), batch)["loss"]
    assert float(loss) == 0
    gradients = tape.gradient(loss, method.encoder_variables)
    assert not any(np.any(g) for g in gradients if g is not None)


def test_the_encoder_is_trained_and_the_centroids_are_not(tiny_backbone, rng, images):
    method = tiny(tiny_backbone)
    method.begin_epoch(0, over(images))
    assert not {id(method.centroids)} & {id(v) for v in method.encoder_variables}
    batch = batch_of(rng, sides=(8, 8, 4))
    with tf.GradientTape() as tape:
        outputs = method(batch["views"], training=True)
        assert outputs["scores"].shape == (3, 24, 4)
        loss = method.compute_losses(outputs, batch)["loss"]
    gradients = tape.gradient(loss, [*method.encoder_variables, outputs["scores"]])
    assert all(np.any(g) for g in gradients)
    expected = np.einsum("rd,hkd->hrk", outputs["embeddings"], method.centroids.numpy())
    np.testing.assert_allclose(outputs["scores"], expected, atol=1e-5)
    before = method.centroids.numpy().copy()
    method.train_step(batch)
    np.testing.assert_array_equal(method.centroids, before)


def test_a_step_writes_its_embeddings_into_the_banks(tiny_backbone, rng, images):
    method = tiny(tiny_backbone)
    method.begin_epoch(0, over(images))
    before = method.banks[0].read().numpy()
    index = np.array([4, 23, 0, 7, 8, 9, 11, 12])
    batch = batch_of(rng, sides=(8, 8, 4), index=index)
    # The embeddings of the step, before its update.
    outputs = method(batch["views"], training=True)
    method.after_update({**outputs, "taken": tf.constant(True)}, batch)
    embeddings = outputs["embeddings"].numpy()
    others = np.setdiff1d(np.arange(24), index)
    for view, bank in enumerate(method.banks):
        rows = bank.read().numpy()
        np.testing.assert_allclose(rows[index], embeddings[8 * view : 8 * view + 8], atol=1e-6)
        np.testing.assert_array_equal(rows[others], before[others])
    bad = {**outputs, "embeddings": outputs["embeddings"] * float("nan")}
    kept = values(method)
    method.after_update({**bad, "taken": tf.constant(False)}, batch)
    for name, value in values(method).items():
        np.testing.assert_array_equal(value, kept[name], err_msg=name)


def test_equal_scores_give_the_stuck_loss(tiny_backbone, rng, images):
    method = tiny(tiny_backbone)
    method.begin_epoch(0, over(images))
    rows = tf.ones([16, 5])
    outputs = {"features": rows, "embeddings": rows, "scores": tf.fill([3, 16, 4], 0.7)}
    loss = method.compute_losses(outputs, batch_of(rng))["loss"]
    assert method.stuck_loss(8) == pytest.approx(math.log(4))
    assert float(loss) == pytest.approx(math.log(4), rel=1e-6)


def test_the_defaults_are_the_papers():
    config = DeepClusterV2Config()
    assert (config.num_prototypes, config.num_clusterings, config.kmeans_iterations) == (
        3000,
        3,
        10,
    )
    assert (config.proj_hidden_dim, config.proj_out_dim, config.temperature) == (2048, 128, 0.1)
    assert config.num_local_views == 6
    assert DeepClusterV2Config.DEFAULTS["pretrain"]["lars_variant"] == "larc"
    assert not DeepClusterV2.needs_labels
    assert not DeepClusterV2.reorders


def test_bad_options(tiny_backbone):
    with pytest.raises(UserError, match=r"--num_prototypes must not exceed the 24 .*Received: 25"):
        tiny(tiny_backbone, num_prototypes=25)
    with pytest.raises(ValueError, match=r"bank of embeddings needs plan=Plan.num_examples.*: 0"):
        tiny(tiny_backbone, plan=Plan())


class OwnGuess(DeepClusterV2):
    """No k-means: fixed random prototypes, and each image's nearest is its cluster."""

    def begin_epoch(self, epoch, run_over):
        super().begin_epoch(epoch, run_over)
        rng = np.random.default_rng(7)
        prototypes = unit(rng.normal(size=self.centroids.shape)).astype(np.float32)
        self.centroids.assign(prototypes)
        guesses = [
            (self.banks[head % 2].read().numpy() @ rows.T).argmax(1)
            for head, rows in enumerate(prototypes)
        ]
        self.clusters.assign(np.stack(guesses))


@pytest.mark.parametrize("cls", [DeepClusterV2, OwnGuess])
def test_clustering_keeps_the_prototypes_in_use(tiny_backbone, cls):
    keras.utils.set_random_seed(0)
    digits = data.open_source("digits", "train").images[:256].astype(np.float32) / 255
    plan = Plan(batch_size=256, num_examples=256, steps_per_epoch=1, seed=0)
    sizes = {"proj_hidden_dim": 32, "proj_out_dim": 16, "num_prototypes": 16}
    method = tiny(tiny_backbone, plan=plan, cls=cls, **sizes)
    method.compile(optimizer=keras.optimizers.Adam(0.003), jit_compile=False)
    method.prepare(8)
    rng = np.random.default_rng(0)
    for epoch in range(6):
        method.begin_epoch(epoch, over(digits))
        views = tuple(digits + rng.normal(0, 0.05, digits.shape) for _ in range(2))
        batch = {
            "views": tuple(view.astype(np.float32) for view in views),
            "label": np.zeros(256, np.int64),
            "index": np.arange(256),
        }
        steps = tf.data.Dataset.from_tensors(batch).repeat()
        method.fit(steps, epochs=1, steps_per_epoch=6, shuffle=False, verbose=0)
    use = np.mean([len(set(row)) for row in method.clusters.numpy()]) / 16
    assert use > 0.9 if cls is DeepClusterV2 else use < 0.6, use
