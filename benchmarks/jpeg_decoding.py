"""Would it pay to decode only what the crops of a JPEG file need? Milliseconds of every way.

    python benchmarks/jpeg_decoding.py

For two crops of SimCLR's recipe at 224 px: the whole file, as our input does; the smallest window
that holds both crops; each crop by itself; and at half size by the inverse DCT, which is possible
where both crops have at least 448 pixels a side. TensorFlow's kernels on one core, the least of
five turns, milliseconds of processor time for a file.
"""

import io
import time

import numpy as np
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_images

from tfcontrast.augment import example_seeds, view_recipes
from tfcontrast.augment.views import crop_boxes

SIDE, QUALITY, TURNS = 224, 90, 5
SIZES = ((500, 333), (640, 427), (1280, 854), (2560, 1708))  # width and height
HOW = {"channels": 3, "dct_method": "INTEGER_ACCURATE"}


def write_files(size):
    """scikit-learn's two photographs at a size, as JPEG files in memory."""
    files = []
    for pixels in load_sample_images().images:
        file = io.BytesIO()
        Image.fromarray(pixels).resize(size, Image.BICUBIC).save(file, "JPEG", quality=QUALITY)
        files.append(tf.constant(file.getvalue()))
    return files


def draw_boxes(size, count):
    """The boxes of both crops, and the window around them: three of [count, 4]."""
    recipes = view_recipes("simclr_v2", image_size=SIDE, num_views=2)
    width, height = size
    boxes = [
        crop_boxes(example_seeds(0, tf.range(count, dtype=tf.int64), view), height, width, recipe)
        for view, recipe in enumerate(recipes)
    ]
    ends = tf.maximum(*[box[:, :2] + box[:, 2:] for box in boxes])
    start = tf.minimum(*[box[:, :2] for box in boxes])
    return [*boxes, tf.concat([start, ends - start], axis=1)]


def milliseconds(function, count):
    """Processor time of a call, the least of some turns."""
    function(0)
    turns = []
    for _ in range(TURNS):
        start = time.process_time()
        for number in range(count):
            function(number)
        turns.append(1e3 * (time.process_time() - start) / count)
    return min(turns)


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    decode = tf.function(lambda data: tf.io.decode_jpeg(data, **HOW))
    decode_half = tf.function(lambda data: tf.io.decode_jpeg(data, ratio=2, **HOW))
    decode_crop = tf.function(lambda data, box: tf.io.decode_and_crop_jpeg(data, box, **HOW))
    print("size         whole  both crops' window  each crop  half size   files that allow half")
    for size in SIZES:
        count = 200 if size[0] < 1000 else 60
        files = write_files(size)
        first, second, both = (tf.unstack(boxes) for boxes in draw_boxes(size, count))
        ways = (
            lambda i, files=files: decode(files[i % 2]),
            lambda i, files=files, both=both: decode_crop(files[i % 2], both[i]),
            lambda i, files=files, first=first, second=second: (
                decode_crop(files[i % 2], first[i]),
                decode_crop(files[i % 2], second[i]),
            ),
            lambda i, files=files: decode_half(files[i % 2]),
        )
        whole, window, each, half = (milliseconds(way, count) for way in ways)
        sides = np.minimum(*[np.min(np.asarray(boxes)[:, 2:], axis=1) for boxes in (first, second)])
        print(
            f"{size[0]:4d} x {size[1]:4d}{whole:8.2f}{window:20.2f}{each:11.2f}{half:11.2f}"
            f"{100 * np.mean(sides >= 2 * SIDE):22.0f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
