"""Reading image files: one decoder for every format, and the check of a whole folder."""

import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from tfcontrast.data.bad_images import first_line

_LOG = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
MAX_PIXELS = 178_956_970  # above: a decompression bomb, by Pillow's own bound
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_ORIENTATION = 0x0112
_PLAIN, _OTHER = _GOOD = ("\0plain", "\0other")  # kinds of usable images; no reason starts so
_REMEMBERED_FROM = 2000  # folders with fewer images are checked anew every time


@dataclasses.dataclass(frozen=True)
class Checked:
    """What the check of a folder found.

    Attributes:
        bad: (place, reason) of the files that cannot be used, in order.
        plain: places of the JPEG files that TensorFlow decodes to the pixels of `decode_image`.
    """

    bad: list[tuple[int, str]]
    plain: list[int]


def decode_image(path: str) -> np.ndarray[Any, Any]:
    """Reads an image file as it is meant to be seen.

    The EXIF orientation is applied, grey and palette and CMYK become RGB, transparency is
    composited on white, 16 bits are scaled to 8, and of an animation the first frame is taken. The
    content decides the format, not the name.

    Args:
        path: a JPEG, PNG, WebP, GIF or BMP file.

    Returns:
        uint8 [height, width, 3].

    Raises:
        OSError: the file cannot be read or is not such an image or is cut short; damaged files can
            also raise what Pillow's decoders raise (SyntaxError, ValueError, EOFError, ...).
        ValueError: more than `MAX_PIXELS` pixels.
    """
    with Image.open(path, formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels, more than {MAX_PIXELS}")
        image.load()
        seen: Image.Image = image
        if image.getexif().get(_ORIENTATION, 1) != 1:
            seen = ImageOps.exif_transpose(image)
        return np.asarray(_to_rgb(seen))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion would clip at 255
        deep = np.clip(np.asarray(image).astype(np.float64), 0, 65535)
        return Image.fromarray(np.round(deep / 257.0).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def decode_plain_jpeg(path: tf.Tensor) -> tf.Tensor:
    """Reads a JPEG file inside a graph, about twice as fast as Pillow; see `Checked.plain`.

    The accurate inverse DCT is the one that Pillow uses, so that RGB and grey files agree bit for
    bit where both sides have the same libjpeg-turbo.

    Args:
        path: string scalar.

    Returns:
        uint8 [height, width, 3].
    """
    data = tf.io.read_file(path)
    with tf.control_dependencies([_check_sides(tf.image.extract_jpeg_shape(data)[:2])]):
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def refuse_absurd_sizes(data: tf.Tensor) -> tf.Tensor:
    """Checks the size that the header of a JPEG or PNG file claims, inside a graph.

    Args:
        data: the file, a string scalar; other formats pass.

    Returns:
        The same; it fails when the file claims more than `MAX_PIXELS` pixels.
    """

    def of_png_or_other() -> tf.Tensor:
        is_png = tf.strings.substr(data, 0, 4) == b"\x89PNG"
        sides = tf.where(is_png, tf.strings.substr(data, 16, 8), tf.constant(b"\0" * 8))
        return tf.ensure_shape(tf.io.decode_raw(sides, tf.int32, little_endian=False), [2])

    is_jpeg = tf.strings.substr(data, 0, 3) == b"\xff\xd8\xff"
    sides = tf.cond(is_jpeg, lambda: tf.image.extract_jpeg_shape(data)[:2], of_png_or_other)
    with tf.control_dependencies([_check_sides(sides)]):
        return tf.identity(data)


def _check_sides(sides: tf.Tensor) -> Any:
    few = tf.reduce_prod(tf.cast(sides, tf.int64)) <= MAX_PIXELS
    return tf.debugging.Assert(few, [f"more than {MAX_PIXELS} pixels"], name="few_pixels")


def check_images(root: str, names: Sequence[str]) -> Checked:
    """Decodes every file completely, in threads, and tells which cannot be used.

    The result for a large folder is remembered in the user's cache folder under a hash of all
    names, sizes and times of change, so that only the first run pays for it.

    Args:
        root: the folder.
        names: paths below it.
    """
    memory = _memory_of(root, names) if len(names) >= _REMEMBERED_FROM else None
    if memory is not None and memory.is_file():
        try:
            record = json.loads(memory.read_text())
            return Checked([(int(i), str(why)) for i, why in record["bad"]], record["plain"])
        except (OSError, ValueError, TypeError, KeyError):
            _LOG.warning("%s is damaged; checking the images again", memory)
    if memory is not None:
        _LOG.info("checking %d images in %s (once)", len(names), root)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_check, (os.path.join(root, name) for name in names)))
    bad = [(place, str(reason)) for place, reason in enumerate(found) if reason not in _GOOD]
    checked = Checked(bad, [place for place, kind in enumerate(found) if kind == _PLAIN])
    if memory is not None:
        _remember(memory, checked)
    return checked


def explain(path: str) -> str:
    """Why a file cannot be read, in a few words."""
    found = _decode(path)
    return found if isinstance(found, str) else "it could not be read"


def _decode(path: str) -> np.ndarray[Any, Any] | str:
    """The pixels, or the reason why there are none."""
    try:
        if not os.path.getsize(path):
            return "empty file"
        return decode_image(path)
    except UnidentifiedImageError:
        return "not an image of a known format"
    except OSError as error:
        return error.strerror or first_line(error)
    except Exception as error:  # decoders of damaged files raise whatever they trip over
        return first_line(error)


def _check(path: str) -> str:
    """Which kind of usable image a file is, or the reason why it is none."""
    found = _decode(path)
    if isinstance(found, str):
        return found
    if not path.lower().endswith((".jpg", ".jpeg")):
        return _OTHER
    try:
        with tf.device("CPU:0"):
            same = np.array_equal(decode_plain_jpeg(tf.constant(path)).numpy(), found)
    except tf.errors.OpError:
        same = False
    return _PLAIN if same else _OTHER


def _memory_of(root: str, names: Sequence[str]) -> pathlib.Path:
    digest = hashlib.sha256(
        f"2\0{PIL.__version__}\0{tf.__version__}\0{os.path.realpath(root)}".encode()
    )
    for name in names:
        try:
            state = os.stat(os.path.join(root, name))
            digest.update(f"\0{name}\0{state.st_size}\0{state.st_mtime_ns}".encode())
        except OSError:
            digest.update(f"\0{name}\0unreadable".encode())
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(cache, "tfcontrast", "checked_images", f"{digest.hexdigest()}.json")


def _remember(memory: pathlib.Path, checked: Checked) -> None:
    """Writes the result whole or not at all; failing to do so costs time, not the run."""
    part = memory.with_suffix(f".{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(dataclasses.asdict(checked)))
        part.replace(memory)
    except OSError as error:
        _LOG.warning("the check of the images is not remembered: %s", error)
