"""What SwAV and DeepCluster-v2 share: options, network and the pass of all crops.

Both come from one paper (Caron et al., SwAV, 2020, arXiv:2006.09882) and one released code.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcontrast import distribute, losses
from tfcontrast.methods import shared_options
from tfcontrast.methods.multi_crop import MultiCropConfig
from tfcontrast.methods.supervised import LINEAR_EVAL_DEFAULTS
from tfcontrast.models import Perceptron, forward_views

# Views at full size: the only ones that say where an image belongs.
NUM_ASSIGNING_VIEWS = 2

# The released code for 800 epochs: LARC 4.8 at batch 4096, which is 0.3 x B/256, a warm-up of 10
# epochs that starts at 0.3, a cosine to a thousandth, decay 1e-6.
PRETRAIN_DEFAULTS: Mapping[str, Any] = {
    "augmentation": "swav",
    "lars_variant": "larc",
    "learning_rate": 0.3,
    "initial_learning_rate": 0.0625,
    "final_learning_rate": 0.001,
    "weight_decay": 1e-6,
    "train_epochs": 800,
}
# Its evaluation: SGD 0.3 at batch 256 for 100 epochs.
LINEAR_DEFAULTS: Mapping[str, Any] = {
    **LINEAR_EVAL_DEFAULTS,
    "nesterov": False,
    "learning_rate": 0.3,
    "weight_decay": 1e-6,
    "train_batch_size": 256,
    "train_epochs": 100,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrototypeConfig(MultiCropConfig):
    """Options of the methods that compare unit embeddings with prototypes; the paper's defaults."""

    num_local_views: int = shared_options.num_local_views(6)
    proj_hidden_dim: int = shared_options.proj_hidden_dim(2048)
    proj_out_dim: int = shared_options.proj_out_dim(128)
    num_prototypes: int = shared_options.num_prototypes(3000)
    temperature: float = shared_options.temperature(0.1)


def make_prototype_projector(config: PrototypeConfig, *, global_bn: bool = True) -> Perceptron:
    """The projector: dense with bias, batch norm, ReLU, dense with bias."""
    return Perceptron(
        widths=(config.proj_hidden_dim, config.proj_out_dim),
        hidden_bias=True,
        global_bn=global_bn,
        name="projector",
    )


def encode_crops(
    backbone: keras.Model,
    projector: Perceptron,
    views: Sequence[tf.Tensor],
    training: bool,
    *,
    seed: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Passes the crops of each size through the backbone, then all of them through the projector.

    Args:
        backbone: images to features.
        projector: features to embeddings.
        views: V tensors [B, H, W, 3], the full-size ones first.
        training: whether batch norm uses the batch's statistics.
        seed: of the branches that the backbone drops, ``Method.branch_seed``.

    Returns:
        ``"features"`` [V * B, D] and ``"embeddings"`` [V * B, d] of length 1, grouped by view.
    """
    features = forward_views(backbone, views, training, seed=seed)
    embeddings = losses.unit_rows(projector(features, training=training))
    return {"features": features, "embeddings": embeddings}


def assigning_rows(embeddings: tf.Tensor, batch_size: int) -> list[tf.Tensor]:
    """The rows [B, d] of each full-size view, without gradient."""
    rows = tf.stop_gradient(embeddings[: NUM_ASSIGNING_VIEWS * batch_size])
    return tf.split(rows, NUM_ASSIGNING_VIEWS)


def prototype_use(scores: tf.Tensor) -> tf.Tensor:
    """The share of prototypes that are the nearest to some row, of all replicas' rows.

    It cannot exceed the rows divided by the prototypes.

    Args:
        scores: [rows, K].
    """
    nearest = tf.one_hot(tf.argmax(scores, axis=1), scores.shape[1])
    used = distribute.all_sum(tf.reduce_max(nearest, axis=0)) > 0
    return tf.reduce_mean(tf.cast(used, tf.float32))
