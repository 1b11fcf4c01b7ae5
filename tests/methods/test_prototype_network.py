import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import prototype_network as room
from tfcontrast.models import Perceptron


def test_the_projector_is_the_papers():
    config = room.PrototypeConfig(proj_hidden_dim=7, proj_out_dim=3)
    projector = room.make_prototype_projector(config)
    projector.build((None, 5))
    shapes = {
        (v.path.split("/")[-2], v.name): tuple(v.shape) for v in projector.trainable_variables
    }
    assert shapes == {
        ("dense1", "kernel"): (5, 7),
        ("dense1", "bias"): (7,),
        ("norm1", "gamma"): (7,),
        ("norm1", "beta"): (7,),
        ("dense2", "kernel"): (7, 3),
        ("dense2", "bias"): (3,),
    }


def test_crops_of_one_size_share_a_pass_and_embeddings_have_length_one(tiny_backbone):
    backbone, projector = tiny_backbone(), Perceptron(widths=(8, 5))
    rng = np.random.default_rng(0)
    views = [tf.constant(rng.random([3, s, s, 3]), tf.float32) for s in (8, 8, 4, 4)]
    found = room.encode_crops(backbone, projector, views, False)
    assert found["features"].shape == (12, 6)
    np.testing.assert_allclose(tf.norm(found["embeddings"], axis=1), 1, atol=1e-6)
    for number, view in enumerate(views):
        own = found["features"][3 * number : 3 * number + 3]
        np.testing.assert_allclose(own, backbone(view), atol=1e-6)
    # In training the statistics are those of all crops of a size.
    trained = room.encode_crops(backbone, projector, views, True)["features"]
    large = backbone(tf.concat(views[:2], 0), training=True)
    small = backbone(tf.concat(views[2:], 0), training=True)
    np.testing.assert_allclose(trained, tf.concat([large, small], 0), atol=1e-5)


def test_the_assigning_rows_are_the_first_two_views_and_constants():
    embeddings = tf.Variable(tf.reshape(tf.range(24.0), [12, 2]))
    with tf.GradientTape() as tape:
        first, second = room.assigning_rows(embeddings, 3)
        total = tf.reduce_sum(first) + tf.reduce_sum(second)
    np.testing.assert_array_equal(first, embeddings[:3])
    np.testing.assert_array_equal(second, embeddings[3:6])
    assert tape.gradient(total, embeddings) is None


def test_the_use_of_prototypes():
    scores = np.zeros([6, 5], np.float32)
    scores[np.arange(6), [0, 0, 3, 3, 3, 4]] = 1
    assert float(room.prototype_use(tf.constant(scores))) == pytest.approx(0.6)
    assert float(room.prototype_use(tf.constant(np.eye(5, dtype=np.float32)))) == 1
    collapsed = tf.constant(np.tile([[0.1, 0.9, 0.2, 0.3]], [7, 1]), tf.float32)
    assert float(room.prototype_use(collapsed)) == 0.25


def test_the_use_counts_the_rows_of_all_replicas(strategy_of):
    strategy = strategy_of(2)
    blocks = np.zeros([2, 2, 4], np.float32)
    blocks[0, [0, 1], [1, 1]] = 1
    blocks[1, [0, 1], [1, 2]] = 1

    @tf.function
    def run():
        def step():
            context = tf.distribute.get_replica_context()
            mine = tf.gather(tf.constant(blocks), context.replica_id_in_sync_group)
            return room.prototype_use(mine)

        return strategy.run(step)

    for value in strategy.experimental_local_results(run()):
        assert float(value) == 0.5
