import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import ProjectionConfig, make_projector
from tfcontrast.methods.projection import encode_views
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


def test_all_views_are_one_batch_for_batch_norm():
    class Mean(keras.Model):
        def call(self, images, training=False):
            return tf.reduce_mean(images, [1, 2]) - tf.reduce_mean(images)

    projector = make_projector(ProjectionConfig(proj_head_mode="none"))
    views = (tf.zeros([2, 4, 4, 3]), tf.ones([2, 4, 4, 3]))
    outputs = encode_views(Mean(), projector, views, True)
    np.testing.assert_allclose(outputs["features"][:, 0], [-0.5, -0.5, 0.5, 0.5])
    np.testing.assert_array_equal(outputs["embeddings"], outputs["features"])
