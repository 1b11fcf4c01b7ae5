"""Runs a frozen encoder once over a data set, the start of every offline evaluation."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf


def extract_features(
    embed: Callable[[tf.Tensor], tf.Tensor],
    dataset: Iterable[Mapping[str, tf.Tensor]],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Embeds every example once, in order.

    A batch smaller than the first one (the last, usually) is filled up with copies of its last
    image, and their features are dropped: the network is traced and compiled for one shape. So
    ``embed`` must treat images independently, as any network does with ``training=False``.

    Args:
        embed: images [B, H, W, 3] to features [B, D], or [B, ...] which is flattened. It is
            wrapped in a ``tf.function`` unless it is one already; pass one to keep its trace
            between calls (a monitor that runs every epoch).
        dataset: batches of ``{"image", "label"}``, finite. Batches without ``label`` count as
            unlabelled.

    Returns:
        Features [N, D] float32 and labels [N] int64, -1 where unlabelled.

    Raises:
        ValueError: no examples, or a batch that is larger than the first.

    Example:
        >>> pairs = {"image": tf.range(5.0)[:, None], "label": tf.range(5)}
        >>> data = tf.data.Dataset.from_tensor_slices(pairs)
        >>> features, labels = extract_features(lambda x: 2 * x, data.batch(2))
        >>> features[:, 0].tolist(), labels.tolist()
        ([0.0, 2.0, 4.0, 6.0, 8.0], [0, 1, 2, 3, 4])
    """
    run = embed if hasattr(embed, "get_concrete_function") else tf.function(lambda x: embed(x))
    features: list[npt.NDArray[Any]] = []
    labels: list[npt.NDArray[Any]] = []
    full = 0
    for batch in dataset:
        images = tf.convert_to_tensor(batch["image"])
        count = int(images.shape[0])
        if count == 0:
            continue
        full = full or count
        if count > full:
            raise ValueError(f"no batch may exceed the first. Received: {count} after {full}")
        if count < full:
            filler = tf.repeat(images[-1:], full - count, axis=0)
            images = tf.concat([images, filler], axis=0)
        rows = tf.cast(run(images), tf.float32).numpy()
        features.append(rows[:count].reshape(count, -1))
        labels.append(np.asarray(batch.get("label", np.full(count, -1))))
    if not features:
        raise ValueError("the data set must hold at least one example. Received: none")
    return np.concatenate(features), np.concatenate(labels).astype(np.int64)
