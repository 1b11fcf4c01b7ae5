"""Where the time of `jpeg_input.py`'s case goes: its input, one stage more in every line.

    python benchmarks/jpeg_parts.py [--seconds=5]

Each line runs the pipeline up to a stage: images a second, and milliseconds of processor time for
an image, over all cores. It has no peer and keeps no record; page faults of large buffers are part
of the times.
"""

import argparse
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from jpeg_input import write_photographs

from tfcontrast.augment import view_recipes
from tfcontrast.data import open_source, train_dataset
from tfcontrast.data.host import cores, ordered_options
from tfcontrast.data.index_stream import index_stream
from tfcontrast.data.pipeline import _CHUNK, _examples, _read_rows
from tfcontrast.data.view_making import view_maker

SIZE, BATCH = 224, 64


def measure(title: str, step: Callable[[], Any], images: int, seconds: float) -> None:
    """Prints the rate of a function that handles this many images a call."""
    for _ in range(max(3, BATCH // images)):
        step()
    start, used, count = time.perf_counter(), time.process_time(), 0
    while (passed := time.perf_counter() - start) < seconds:
        step()
        count += images
    used = time.process_time() - used
    print(f"{title:36s} {count / passed:7.0f} images/s {1e3 * used / count:6.2f} ms", flush=True)


def reading(dataset: tf.data.Dataset) -> Callable[[], Any]:
    """A function that takes the next element."""
    iterator = iter(dataset.with_options(ordered_options()).prefetch(2))
    return lambda: next(iterator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of a line")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(pathlib.Path(folder))
        source = open_source(f"folder:{folder}", "train")
        recipes = view_recipes("simclr_v2", image_size=SIZE, num_views=2)
        order = index_stream(source.num_examples, BATCH, seed=0)
        # In batches of their sizes: to fetch images one by one from Python costs as much again.
        sizes = _read_rows(order, source, cores()).map(lambda row: tf.shape(row["images"]))
        crops = _examples(order, source, recipes, 0, cores()).batch(_CHUNK, drop_remainder=True)
        finish = view_maker(source, recipes, seed=0)
        chunk = next(iter(crops))
        finished = tf.data.Dataset.range(2**62).map(
            lambda turn: finish(chunk["images"], chunk["counter"] + turn * _CHUNK),
            num_parallel_calls=cores(),
        )
        measure("read and decode", reading(sizes.batch(_CHUNK)), _CHUNK, seconds)
        measure(f"that, cut, resized, in {_CHUNK}s", reading(crops), _CHUNK, seconds)
        measure("colour, blur, flip alone", reading(finished), _CHUNK, seconds)
        whole = train_dataset(source, recipes, batch_size=BATCH, seed=0)
        measure(f"the whole input, in {BATCH}s", reading(whole), BATCH, seconds)


if __name__ == "__main__":
    main()
