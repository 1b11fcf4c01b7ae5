"""The contenders that run on TensorFlow: this package, simclr/tf2's way, and decoding alone.

    python benchmarks/tensorflow_ways.py --way=ours --size=32 --blur=0

A contender of `record.race`.
"""

import argparse
import dataclasses
from collections.abc import Iterator

import numpy as np
import simclr_way
import tensorflow as tf
from record import answer

from tfcontrast.augment import view_recipes
from tfcontrast.data import Source, open_source, train_dataset


def resident(size: int) -> Source:
    """10,000 images of noise: no step's work depends on what an image shows."""
    images = np.random.default_rng(0).integers(0, 256, [10_000, size, size, 3], np.uint8)
    labels = np.zeros([len(images)], np.int64)
    return Source(
        name="noise", split="train", num_examples=len(images), num_classes=1, images=images,
        labels=labels,
    )  # fmt: skip


def ours(arguments: argparse.Namespace) -> Iterator:
    """What training gets, from the pipeline that training uses."""
    source = resident(arguments.size)
    if arguments.folder:
        source = open_source(f"folder:{arguments.folder}", "train")
    recipes = view_recipes("simclr_v2", image_size=arguments.size, num_views=2)
    if not arguments.blur:
        recipes = tuple(dataclasses.replace(r, blur_probability=0.0) for r in recipes)
    for batch in train_dataset(source, recipes, batch_size=arguments.batch_size, seed=0):
        [view[0, 0, 0, 0].numpy() for view in batch["views"]]
        yield batch


def simclr(arguments: argparse.Namespace) -> Iterator:
    """simclr/tf2's way, on the same images in a random order."""
    source = resident(arguments.size) if not arguments.folder else None
    if source is not None:
        images = tf.data.Dataset.from_tensor_slices(source.images).shuffle(1000).repeat()
    else:
        images = _files(arguments.folder).map(
            lambda path: tf.io.decode_jpeg(tf.io.read_file(path), channels=3),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    return simclr_way.batches(
        images,
        size=arguments.size,
        batch_size=arguments.batch_size,
        blur=bool(arguments.blur),
        folder=arguments.simclr_dir,
    )


def decoding(arguments: argparse.Namespace) -> Iterator:
    """Decodes every file once and does nothing else: views cannot come faster than that."""
    sizes = _files(arguments.folder).map(
        lambda path: tf.shape(tf.io.decode_jpeg(tf.io.read_file(path), channels=3)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return iter(sizes.batch(arguments.batch_size, drop_remainder=True).prefetch(2))


def _files(folder: str) -> tf.data.Dataset:
    return (
        tf.data.Dataset.list_files(f"{folder}/train/*/*.jpg", shuffle=True).shuffle(1000).repeat()
    )


WAYS = {"ours": ours, "simclr": simclr, "decoding": decoding}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--way", choices=WAYS, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--blur", type=int, required=True)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--folder", default="")
    parser.add_argument("--simclr_dir", default="")
    arguments = parser.parse_args()
    answer(WAYS[arguments.way](arguments), arguments.batch_size)


if __name__ == "__main__":
    main()
