import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS, DeepCluster, DeepClusterConfig, Plan, deepcluster
from tfcontrast.models import kmeans, whiten

RNG = np.random.default_rng(0)
IMAGES = RNG.random([64, 8, 8, 3]).astype(np.float32)
PLAN = Plan(batch_size=16, num_examples=64, steps_per_epoch=4, total_steps=40, seed=3)


def run_over(function):
    return np.asarray(function(tf.constant(IMAGES)))


@pytest.fixture
def make(make_method):
    """A method on 64 images; its first epoch is not begun."""

    def build(cls=DeepCluster, plan=PLAN, optimizer="sgd", begin=False, **options):
        config = DeepClusterConfig(**{"num_prototypes": 6, **options})
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(METHODS, "deepcluster", cls)
            patch.setattr(cls, "begin_epoch", lambda *_: None)
            method = make_method("deepcluster", config=config, plan=plan, optimizer=optimizer)
        if begin:
            method.begin_epoch(0, run_over)
        return method

    return build


def value(variable):
    return tf.convert_to_tensor(variable).numpy().copy()


def test_defaults_are_the_papers():
    config = DeepClusterConfig()
    assert (config.num_prototypes, config.pca_dim, config.kmeans_iterations) == (10_000, 256, 20)
    assert (config.proj_head_mode, config.reassign_epochs) == ("none", 1)
    options = config.DEFAULTS["pretrain"]
    assert (options["learning_rate"], options["weight_decay"]) == (0.05, 1e-5)
    assert options["learning_rate_schedule"] == "constant"
    assert options["sobel"]


def test_the_loss_is_cross_entropy_with_the_images_cluster(make):
    method = make(begin=True)
    table = value(method.clusters)
    scores = RNG.normal(size=[5, 6])
    index = np.array([9, 63, 0, 9, 17])
    found = method.compute_losses(
        {"scores": tf.constant(scores, tf.float32), "features": tf.ones([5, 6])},
        {"index": tf.constant(index)},
    )
    own = scores[np.arange(5), table[index]]
    expected = np.mean(np.log(np.exp(scores).sum(1)) - own)
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-6)
    hits = np.mean(scores.argmax(1) == table[index])
    assert float(found["cluster_accuracy"]) == pytest.approx(hits)
    assert method.stuck_loss(16) == pytest.approx(np.log(6))


def test_scores_are_those_of_rectified_features(make):
    method = make(proj_head_mode="linear", proj_out_dim=7, begin=True)
    outputs = method((tf.constant(IMAGES),), training=False)
    embeddings = outputs["embeddings"].numpy()
    assert embeddings.min() < 0
    kernel = value(method.top_layer.kernel)
    np.testing.assert_allclose(outputs["scores"], np.maximum(embeddings, 0) @ kernel, atol=1e-6)
    # and the clusters those of all of them
    np.testing.assert_allclose(run_over(method.clustered_features), embeddings, atol=1e-5)


def test_clusters_are_k_means_of_whitened_unit_features(make, monkeypatch):
    asked = []

    def record(rows, count, **options):
        asked.append((rows, count, options))
        return kmeans(rows, count, **options)

    monkeypatch.setattr(deepcluster, "kmeans", record)
    method = make(pca_dim=4)
    seen = []
    method.begin_epoch(0, lambda function: seen.append(run_over(function)) or seen[-1])
    ((rows, count, options),) = asked
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(seen[0], method.embed(tf.constant(IMAGES)), rtol=1e-5)
    white = whiten(seen[0], 4)
    np.testing.assert_allclose(white.T @ white / 64, np.eye(4), atol=1e-3)
    np.testing.assert_allclose(rows, white / np.linalg.norm(white, axis=1)[:, None], atol=1e-5)
    assert count == 6
    assert (options["iterations"], options["empty"]) == (20, "split")
    found = kmeans(rows, count, **options)
    np.testing.assert_array_equal(value(method.clusters), found.assignments)
    sizes = np.bincount(found.assignments, minlength=6)
    assert value(method.cluster_use) == pytest.approx(np.mean(sizes > 0))
    assert value(method.largest_cluster) == pytest.approx(sizes.max() / 64)
    method.begin_epoch(1, run_over)
    assert asked[1][2]["seed"] != options["seed"]  # new first centroids every time


def test_mutual_information_is_between_consecutive_clusterings(make, monkeypatch):
    method = make(begin=True)
    assert value(method.cluster_nmi) == 0
    first = value(method.clusters)
    for found, expected in (((first + 1) % 6, 1.0), (np.zeros(64, np.int64), 0.0)):
        result = kmeans(IMAGES.reshape(64, -1), 6, iterations=1, seed=0)
        monkeypatch.setattr(
            deepcluster, "kmeans", lambda *_, r=result, f=found, **__: r._replace(assignments=f)
        )
        method.begin_epoch(1, run_over)
        assert value(method.cluster_nmi) == pytest.approx(expected, abs=1e-6)
        assert value(method.largest_cluster) == np.bincount(found).max() / 64


def slots_of(method):
    return {v.name: value(v) for v in method.optimizer.variables if "velocity" in v.name}


def test_every_clustering_starts_a_new_classifier_without_a_past(make, fit):
    method = make(num_prototypes=60, begin=True)
    first = value(method.top_layer.kernel)
    assert first.std() == pytest.approx(0.01, rel=0.15)
    assert abs(first.mean()) < 0.003
    fit(method, 2)
    assert np.any(value(method.top_layer.bias))
    before = slots_of(method)
    own = [name for name in before if "top_layer" in name]
    assert len(own) == 2
    assert all(np.any(slot) for slot in before.values())
    method.begin_epoch(1, run_over)
    after = slots_of(method)
    for name, slot in after.items():
        np.testing.assert_array_equal(slot, 0 * slot if name in own else before[name])
    second = value(method.top_layer.kernel)
    assert not np.any(value(method.top_layer.bias))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.3
    again = make(num_prototypes=60, begin=True)
    np.testing.assert_array_equal(value(again.top_layer.kernel), first)
    other = make(num_prototypes=60, plan=dataclasses.replace(PLAN, seed=4), begin=True)
    assert np.any(value(other.top_layer.kernel) != first)


def test_the_classifier_alone_has_no_momentum(make):
    method = make()
    groups = {v.path: method.optimizer.group(v.value).momentum for v in method.encoder_variables}
    own = {v.path for v in method.top_layer.variables}
    assert len(own) == 2
    assert own == {path for path, momentum in groups.items() if momentum == 0.0}
    assert {groups[path] for path in groups.keys() - own} == {None}


def test_an_epochs_order_is_uniform_over_clusters_and_follows_the_state(make):
    method = make(begin=True)
    giant = np.array([0] * 54 + [1, 2, 3, 4, 5] * 2)
    method.clusters.assign(giant)
    order = method.epoch_order(0)
    assert (order.shape, order.dtype) == ((64,), np.int64)
    counts = np.bincount(giant[order], minlength=6)
    assert counts.max() - counts.min() <= 2
    np.testing.assert_array_equal(order, method.epoch_order(0))
    assert np.any(order != method.epoch_order(1))
    same = make()
    same.clusters.assign(giant)
    np.testing.assert_array_equal(order, same.epoch_order(0))


def test_between_clusterings_labels_and_classifier_stay(make):
    method = make(reassign_epochs=3, begin=True)
    labels, kernel = value(method.clusters), value(method.top_layer.kernel)
    for epoch in (1, 2):
        method.begin_epoch(epoch, None)
        np.testing.assert_array_equal(value(method.top_layer.kernel), kernel)
    assert np.any(method.epoch_order(1) != method.epoch_order(2))
    method.begin_epoch(3, run_over)
    assert np.any(value(method.top_layer.kernel) != kernel)
    assert value(method.clusters).shape == labels.shape
    assert value(method.clusterings_done) == 2


def test_a_users_mistakes_are_told(make):
    with pytest.raises(UserError, match=r"^--num_prototypes must not exceed the 64 training im"):
        make(num_prototypes=65)
    assert make(num_prototypes=64, begin=True).clusters.shape == (64,)
    with pytest.raises(ValueError, match=r"needs plan=Plan\(num_examples=...\)"):
        make(plan=Plan())
    method = make(begin=True)
    labels = value(method.clusters)
    with pytest.raises(UserError, match="the features are not finite"):
        method.begin_epoch(1, lambda function: run_over(function) * np.nan)
    np.testing.assert_array_equal(value(method.clusters), labels)


class Shuffles(DeepCluster):
    """Broken: every image once an epoch, whatever its cluster."""

    def epoch_order(self, epoch):
        return np.random.default_rng(epoch).permutation(64)


def test_a_giant_cluster_does_not_swallow_the_others(make):
    """With 90 % of the images in one cluster; plain shuffling learns to name that one."""
    giant = np.array([0] * 58 + [1, 1, 2, 2, 3, 3])
    recall = {}
    for cls in (DeepCluster, Shuffles):
        method = make(cls, num_prototypes=4, optimizer=lambda: keras.optimizers.Adam(0.01))
        method.clusters.assign(giant)
        for epoch in range(12):
            order = method.epoch_order(epoch)
            batches = tf.data.Dataset.from_tensor_slices(
                {"views": (IMAGES[order],), "label": order * 0, "index": order}
            )
            batches = batches.batch(16).repeat()
            method.fit(batches, epochs=1, steps_per_epoch=4, shuffle=False, verbose=0)
        scores = method((tf.constant(IMAGES),), training=True)["scores"]
        hits = scores.numpy().argmax(1) == giant
        recall[cls] = np.mean([hits[giant == cluster].mean() for cluster in (1, 2, 3)])
    assert recall[DeepCluster] > 0.6 > 0.2 > recall[Shuffles], recall
