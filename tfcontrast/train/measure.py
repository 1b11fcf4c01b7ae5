"""What a trained encoder is worth, beside raw pixels and the untrained network."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast import evaluate
from tfcontrast.config import Config
from tfcontrast.models import BatchNorm
from tfcontrast.train import build
from tfcontrast.train.console import percent, say, table
from tfcontrast.train.encoder import build_backbone

# Raw pixels are compared at this size at most; the probe reads this many training images at most.
_PIXEL_SIDE = 32
_PROBE_IMAGES = 10_000
_PROBE_L2 = 10.0

Embed = Callable[[tf.Tensor], tf.Tensor]


def measure_encoders(
    config: Config, data: build.RunData, evaluation: data_lib.Source, trained: Embed, label: str
) -> tuple[list[dict[str, Any]], str]:
    """Measures the trained encoder and, with ``--eval_baselines``, its two baselines.

    Args:
        config: the run's options.
        data: the run's images, with labels.
        evaluation: the images that are classified.
        trained: the trained encoder's ``embed``.
        label: its name in the table.

    Returns:
        One record a number (name, value, protocol, split, seed, count), and the table to print.
    """
    rows: list[tuple[str, Embed]] = [(label, trained)]
    if config.evaluation.eval_baselines:
        rows += [
            ("untrained network", _untrained(config, data)),
            ("raw pixels", _pixels(data.image_size)),
        ]
    records, lines = [], []
    for name, embed in rows:
        found = _measure(config, data, evaluation, embed, name)
        records += found
        values = {record["metric"]: record["value"] for record in found}
        lines.append([name, *(percent(values[m]) for m in ("knn_top1", "knn_top5", "linear_top1"))])
    return records, table(["", "kNN top-1", "kNN top-5", "probe top-1"], lines)


def _measure(
    config: Config, data: build.RunData, evaluation: data_lib.Source, embed: Embed, name: str
) -> list[dict[str, Any]]:
    size, batch = data.image_size, config.evaluation.eval_batch_size
    embed = tf.function(embed)
    bank, labels = evaluate.extract_features(
        embed, data_lib.eval_dataset(data.whole_train, image_size=size, batch_size=batch)
    )
    queries, truth = evaluate.extract_features(
        embed, data_lib.eval_dataset(evaluation, image_size=size, batch_size=batch)
    )
    options = config.evaluation
    knn = evaluate.knn_accuracy(
        bank,
        labels,
        queries,
        truth,
        num_classes=data.whole_train.num_classes,
        k=options.knn_k,
        temperature=options.knn_temperature,
    )
    few = np.linspace(0, len(bank) - 1, min(len(bank), _PROBE_IMAGES)).astype(np.int64)
    mean, deviation = bank[few].mean(0), bank[few].std(0) + 1e-6
    probe = evaluate.logistic_probe(
        (bank[few] - mean) / deviation,
        labels[few],
        (queries - mean) / deviation,
        truth,
        num_classes=data.whole_train.num_classes,
        l2_values=[_PROBE_L2],
        max_iterations=300,
    )
    k = min(options.knn_k, len(bank))
    common = {
        "encoder": name,
        "split": evaluation.split,
        "count": len(queries),
        "seed": config.run.seed,
    }
    neighbours = (
        f"weighted kNN, k={k}, T={options.knn_temperature}, on features, "
        f"bank: {len(bank)} training images"
    )
    regression = f"{probe['protocol']}; features standardised, {len(few)} training images"
    return [
        {"metric": "knn_top1", "value": knn["knn_top1"], "protocol": neighbours, **common},
        {"metric": "knn_top5", "value": knn["knn_top5"], "protocol": neighbours, **common},
        {"metric": "linear_top1", "value": probe["linear_top1"], "protocol": regression, **common},
    ]


def _pixels(image_size: int) -> Embed:
    side = min(image_size, _PIXEL_SIDE)

    def embed(images: tf.Tensor) -> tf.Tensor:
        if side != image_size:
            images = tf.image.resize(images, [side, side], antialias=True)
        return tf.reshape(images, [tf.shape(images)[0], side * side * 3])

    return embed


def _untrained(config: Config, data: build.RunData) -> Embed:
    """The same network at its random start, with batch-norm statistics of the training images."""
    keras.utils.set_random_seed(config.run.seed)
    backbone = build_backbone(config, data.image_size)
    backbone(tf.zeros([2, data.image_size, data.image_size, 3]))
    batch = min(config.evaluation.eval_batch_size, data.train.num_examples)
    images = data_lib.eval_dataset(data.train, image_size=data.image_size, batch_size=batch)
    count = min(20, data.train.num_examples // batch)
    norms = [layer for layer in backbone._flatten_layers() if isinstance(layer, BatchNorm)]
    for norm in norms:
        norm.splits = 1  # these batches need not divide, and whole ones say more
    if norms:  # a vision transformer has none
        evaluate.reestimate_batch_norm(
            tf.function(lambda batch: backbone(batch, training=True)),
            norms,
            [b["image"] for b in images.take(count)],
        )
    return lambda features: tf.cast(backbone(features, training=False), tf.float32)


def announce(title: str, text: str) -> None:
    """Prints the closing table."""
    say()
    say(title)
    say(text)
