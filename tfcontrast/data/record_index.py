"""Random access to TFRecord files: where each record starts, and how to read one inside a graph.

A record is an 8-byte little-endian length, a 4-byte checksum of it, the data and a 4-byte checksum
of the data.
"""

import dataclasses
import mmap
import os
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfcontrast.errors import UserError

_FRAME = 16  # bytes around the data of a record


@dataclasses.dataclass(frozen=True)
class Shard:
    """The part of a file that belongs to a split: `take` records after `skip`, of `total`."""

    path: str
    skip: int
    take: int
    total: int


@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
    """Where the records of a split are.

    Attributes:
        paths: the files.
        shards: int64 [N], which file.
        offsets: int64 [N], first byte of the record with its frame.
        lengths: int64 [N], bytes of its data.
    """

    paths: tuple[str, ...]
    shards: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]

    def name(self, place: int) -> str:
        """Where a record is, in words."""
        return f"{self.paths[self.shards[place]]} at byte {self.offsets[place]}"

    def reader(self) -> Any:
        """A function from an int64 scalar i to the data of record i, a string; usable in a graph.

        TensorFlow's own reader seeks to the record and checks its checksums; about 0.1 ms each.
        """
        with tf.device("CPU:0"):
            paths, shards = tf.constant(self.paths), tf.constant(self.shards)
            offsets, lengths = tf.constant(self.offsets), tf.constant(self.lengths)

        def read(index: tf.Tensor) -> tf.Tensor:
            # tf.data.TFRecordDataset does not pass byte_offsets on; the operation below it does.
            records = tf.raw_ops.TFRecordDatasetV2(
                filenames=tf.gather(paths, shards[index])[None],
                compression_type="",
                buffer_size=lengths[index] + _FRAME,
                byte_offsets=offsets[index][None],
            )
            spec = tf.TensorSpec([], tf.string)
            return tf.data.experimental.from_variant(records, spec).take(1).get_single_element()

        return read


def index_records(shards: Sequence[Shard]) -> RecordIndex:
    """Finds the records of a split by walking over the lengths; the data are not read.

    Raises:
        UserError: a file is missing, damaged or cut short, or holds another number of records.
    """
    found = [_walk(shard) for shard in shards]
    counts = [len(offsets) for offsets, _ in found]
    return RecordIndex(
        paths=tuple(shard.path for shard in shards),
        shards=np.repeat(np.arange(len(shards), dtype=np.int64), counts),
        offsets=np.concatenate([offsets for offsets, _ in found]),
        lengths=np.concatenate([lengths for _, lengths in found]),
    )


def _walk(shard: Shard) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    try:
        offsets, lengths = _frames(shard.path)
    except (OSError, ValueError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        raise UserError(
            f"{shard.path} cannot be read: {reason}; prepare the data set again"
        ) from error
    if len(offsets) != shard.total:
        raise UserError(
            f"{shard.path} holds {len(offsets)} whole records instead of {shard.total}; "
            "prepare the data set again"
        )
    part = slice(shard.skip, shard.skip + shard.take)
    return offsets[part], lengths[part]


def _frames(path: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Offsets and lengths of all whole records of a file."""
    if os.path.exists(path):
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return np.zeros([0], np.int64), np.zeros([0], np.int64)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _follow(lambda at: view[at : at + 8], len(view))
    with tf.io.gfile.GFile(path, "rb") as file:  # a bucket, or a missing file

        def at_offset(at: int) -> bytes:
            file.seek(at)
            return file.read(8)

        return _follow(at_offset, file.size())


def _follow(length_at: Any, size: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    offsets, lengths, at = [], [], 0
    while at + _FRAME <= size:
        (length,) = struct.unpack("<Q", length_at(at))
        if at + _FRAME + length > size:
            break
        offsets.append(at)
        lengths.append(length)
        at += _FRAME + length
    return np.array(offsets, np.int64), np.array(lengths, np.int64)
