"""The forward pass of several views, one for each resolution (Caron et al., SwAV, 2020)."""

import itertools
from collections.abc import Callable, Sequence

import tensorflow as tf


def forward_views(
    network: Callable[..., tf.Tensor],
    views: Sequence[tf.Tensor],
    training: bool = False,
    *,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """Passes views through a network, those of one size that follow each other as one batch.

    Batch norm therefore takes its statistics of all views of one size together, and moves them once
    for each size. A network with ``batch_norm_splits`` above 1 gets every view alone: its groups
    must be the same whatever the number of replicas.

    Args:
        network: images [N, H, W, 3] to rows [N, D], with ``training``; also with ``seed`` and
            ``views`` (their number) if it has a true attribute ``needs_seed``.
        views: V tensors [B, H, W, 3], equal sizes beside each other.
        training: passed on.
        seed: for networks that drop branches at random: int32 or uint32 [2], of the step.

    Returns:
        [V * B, D], grouped by view.
    """
    rows = []
    alone = getattr(network, "batch_norm_splits", 1) > 1
    kinds = [(tuple(view.shape[1:]), i if alone else 0) for i, view in enumerate(views)]
    for _, group in itertools.groupby(zip(kinds, views, strict=True), key=lambda pair: pair[0]):
        same = [view for _, view in group]
        images = same[0] if len(same) == 1 else tf.concat(same, 0)
        if getattr(network, "needs_seed", False):
            rows.append(network(images, training=training, seed=seed, views=len(same)))
        else:
            rows.append(network(images, training=training))
    return rows[0] if len(rows) == 1 else tf.concat(rows, 0)
