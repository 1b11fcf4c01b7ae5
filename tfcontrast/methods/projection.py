"""What methods with a projector share: its options, its construction, the pass of the views."""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from tfcontrast.config import MethodConfig, option
from tfcontrast.methods import shared_options
from tfcontrast.models import Projector, forward_views


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProjectionConfig(MethodConfig):
    """Options of the methods that put a projector on the backbone."""

    proj_head_mode: str = shared_options.proj_head_mode("nonlinear")
    num_proj_layers: int = shared_options.num_proj_layers(2)
    proj_hidden_dim: int = shared_options.proj_hidden_dim(0)
    proj_out_dim: int = shared_options.proj_out_dim(128)
    proj_batch_norm: bool = option(True, "Batch norm after the projector's layers.")


def make_projector(config: ProjectionConfig, *, global_bn: bool = True) -> Projector:
    """Builds the projector that the options describe."""
    return Projector(
        mode=config.proj_head_mode,
        num_layers=config.num_proj_layers,
        hidden_dim=config.proj_hidden_dim,
        output_dim=config.proj_out_dim,
        batch_norm=config.proj_batch_norm,
        global_bn=global_bn,
        name="projector",
    )


def encode_views(
    backbone: keras.Model,
    projector: Projector,
    views: Sequence[tf.Tensor],
    training: bool,
    *,
    seed: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Passes all views through backbone and projector as one batch, which batch norm sees whole.

    Args:
        backbone: images to features.
        projector: features to embeddings.
        views: V tensors [B, H, W, 3] of one size.
        training: whether batch norm uses the batch's statistics.
        seed: of the branches that the backbone drops, ``Method.branch_seed``.

    Returns:
        ``"features"`` [V * B, D] and ``"embeddings"`` [V * B, d], grouped by view.
    """
    features = forward_views(backbone, views, training, seed=seed)
    return {"features": features, "embeddings": projector(features, training=training)}


def encode_each_view(
    backbone: keras.Model,
    projector: keras.Model,
    views: Sequence[tf.Tensor],
    training: bool,
    *,
    seed: tf.Tensor | None = None,
) -> dict[str, tf.Tensor]:
    """Passes every view through backbone and projector by itself, one after the other.

    Batch norm takes its statistics of one view at a time, and moves them once for each view.

    Args:
        backbone: images to features.
        projector: features to embeddings.
        views: V tensors [B, H, W, 3].
        training: whether batch norm uses the batch's statistics.
        seed: of the branches that the backbone drops, ``Method.branch_seed``; a view has its own.

    Returns:
        As ``encode_views``.
    """
    features = []
    for number, view in enumerate(views):
        own = None if seed is None else seed + tf.constant([number, 0], seed.dtype)
        features.append(forward_views(backbone, [view], training, seed=own))
    embeddings = [projector(rows, training=training) for rows in features]
    return {"features": tf.concat(features, 0), "embeddings": tf.concat(embeddings, 0)}
