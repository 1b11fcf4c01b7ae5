import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import ProjectionConfig, make_projector
from tfcontrast.methods.projection import encode_each_view, encode_views
from tfcontrast.models import BatchNorm


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        ({}, [6, 6, 128]),
        ({"proj_hidden_dim": 5, "proj_out_dim": 3, "num_proj_layers": 3}, [6, 5, 5, 3]),
        ({"proj_head_mode": "linear", "proj_out_dim": 4}, [6, 4]),
        ({"proj_head_mode": "none"}, [6]),
    ],
)
def test_the_projector_is_what_the_options_say(options, widths):
    projector = make_projector(ProjectionConfig(**options))
    outputs = projector.outputs(tf.ones([2, 6]))
    assert [output.shape[1] for output in outputs] == widths
    assert projector.name == "projector"


@pytest.mark.parametrize("norms", [True, False])
def test_batch_norm_and_its_reach_are_options(norms):
    projector = make_projector(ProjectionConfig(proj_batch_norm=norms), global_bn=False)
    projector(tf.ones([2, 6]))
    found = [layer for layer in projector._flatten_layers() if isinstance(layer, BatchNorm)]
    assert len(found) == (2 if norms else 0)
    assert not any(norm.synchronized for norm in found)


class Mean(keras.Model):
    """Mean colours of the images less those of the batch, and counts its calls."""

    calls = 0

    def call(self, images, training=False):
        self.calls += 1
        return tf.reduce_mean(images, [1, 2]) - tf.reduce_mean(images)


VIEWS = (tf.zeros([2, 4, 4, 3]), tf.ones([2, 4, 4, 3]))


def test_all_views_are_one_batch_for_batch_norm():
    projector = make_projector(ProjectionConfig(proj_head_mode="none"))
    outputs = encode_views(Mean(), projector, VIEWS, True)
    np.testing.assert_allclose(outputs["features"][:, 0], [-0.5, -0.5, 0.5, 0.5])
    np.testing.assert_array_equal(outputs["embeddings"], outputs["features"])


@pytest.mark.parametrize("training", [True, False])
def test_each_view_can_be_a_batch_of_its_own(training):
    mean, seen = Mean(), []
    views = (VIEWS[0], tf.concat([VIEWS[1][:1], 3 * VIEWS[1][:1]], 0))

    def projector(rows, training):
        seen.append(training)
        return 2 * rows

    outputs = encode_each_view(mean, projector, views, training)
    np.testing.assert_allclose(outputs["features"][:, 0], [0, 0, -1, 1])
    np.testing.assert_allclose(outputs["embeddings"], 2 * outputs["features"])
    assert (mean.calls, seen) == (2, [training] * 2)


def test_a_network_that_drops_branches_draws_anew_for_each_view():
    seen = []

    class Dropping:
        needs_seed = True

        def __call__(self, images, training=False, seed=None, views=1):
            seen.append((None if seed is None else seed.numpy().tolist(), views))
            return images[:, 0, 0]

    for seed in (tf.constant([7, 3]), None):
        encode_each_view(Dropping(), lambda rows, training: rows, VIEWS, True, seed=seed)
    assert seen == [([7, 3], 1), ([8, 3], 1), (None, 1), (None, 1)]
