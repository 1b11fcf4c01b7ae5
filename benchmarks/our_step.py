"""Training steps of this package's methods, built as the command line builds them.

    python benchmarks/our_step.py --method=simclr --size=32 --batch_size=64 --precision=float32

A contender of `record.race`.
"""

import argparse
import os
import pathlib
import sys

# As the command line does.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import tensorflow as tf
from record import answer
from step_cases import OURS

from tfcontrast.data import Source, train_dataset
from tfcontrast.train import build
from tfcontrast.train.options import make_config


def noise(size: int) -> Source:
    """Resident images: no step's work depends on what an image shows."""
    images = np.random.default_rng(0).integers(0, 256, [1024, size, size, 3], np.uint8)
    return Source(
        name="noise", split="train", num_examples=len(images), num_classes=2, images=images,
        labels=np.arange(len(images)) % 2,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=OURS, required=True)
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--input", action="store_true", help="views made anew for every step")
    arguments = parser.parse_args()
    config = make_config(
        {
            "method": arguments.method,
            "dataset": "cifar10",  # of which nothing is read: the defaults of digits are small
            "image_size": arguments.size,
            "train_batch_size": arguments.batch_size,
            "precision": arguments.precision,
            "resnet_depth": arguments.depth,
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "lineareval_while_pretraining": False,
            **OURS[arguments.method],
        }
    )
    source = noise(arguments.size)
    data = build.RunData(source, None, source, None, arguments.size)
    method = build.build_method(config, data)
    recipes = build.make_recipes(config, arguments.size)
    batches = train_dataset(source, recipes, batch_size=arguments.batch_size, seed=0)
    if not arguments.input:
        batches = tf.data.Dataset.from_tensors(next(iter(batches))).repeat()
    method.make_train_function()

    def steps():
        iterator = iter(batches)
        while True:
            logs = method.train_function(iterator)
            yield float(logs["loss"])

    answer(steps(), arguments.batch_size)


if __name__ == "__main__":
    main()
