import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.data.record_index import Shard, index_records
from tfcontrast.errors import UserError

RECORDS = [bytes([i]) * size for i, size in enumerate([0, 1, 5, 300_000, 17, 2, 9])]


@pytest.fixture
def shards(tmp_path):
    parts = (RECORDS[:4], RECORDS[4:])
    paths = [str(tmp_path / f"{i}.tfrecord") for i in range(2)]
    for path, part in zip(paths, parts, strict=True):
        with tf.io.TFRecordWriter(path) as writer:
            for record in part:
                writer.write(record)
    return [Shard(path, 0, len(part), len(part)) for path, part in zip(paths, parts, strict=True)]


def test_every_record_is_reached_in_any_order(shards):
    index = index_records(shards)
    order = [6, 0, 3, 3, 1, 5, 2, 4]
    read = tf.data.Dataset.from_tensor_slices(np.array(order, np.int64)).map(
        index.reader(), num_parallel_calls=4
    )
    assert [record.numpy() for record in read] == [RECORDS[i] for i in order]
    assert index.reader()(tf.constant(2, tf.int64)).numpy() == RECORDS[2]
    assert index.lengths.tolist() == [len(record) for record in RECORDS]


def test_parts_of_files(shards):
    parts = [Shard(shards[0].path, 1, 2, 4), Shard(shards[1].path, 2, 1, 3)]
    index = index_records(parts)
    read = index.reader()
    got = [read(tf.constant(i, tf.int64)).numpy() for i in range(3)]
    assert got == [RECORDS[1], RECORDS[2], RECORDS[6]]


def test_remote_files_are_walked_by_the_same_rule(shards, monkeypatch):
    local = index_records(shards)
    # A path that the operating system does not know is opened with TensorFlow's file systems.
    remote = [
        Shard(f"file://{shard.path}", shard.skip, shard.take, shard.total) for shard in shards
    ]
    distant = index_records(remote)
    np.testing.assert_array_equal(distant.offsets, local.offsets)
    np.testing.assert_array_equal(distant.lengths, local.lengths)
    assert distant.reader()(tf.constant(3, tf.int64)).numpy() == RECORDS[3]


@pytest.mark.parametrize("cut", [1, 30, 300_000])
def test_a_file_that_was_cut_short_is_refused(shards, cut):
    path = pathlib.Path(shards[0].path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"0\.tfrecord holds 3 whole records instead of 4"):
        index_records(shards)


def test_empty_and_missing_files_are_refused(shards, tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(UserError, match="empty holds 0 whole records instead of 4"):
        index_records([Shard(str(tmp_path / "empty"), 0, 4, 4)])
    with pytest.raises(UserError, match="nowhere cannot be read"):
        index_records([Shard(str(tmp_path / "nowhere"), 0, 4, 4)])


def test_a_flipped_bit_is_noticed_when_the_record_is_read(shards):
    path = pathlib.Path(shards[0].path)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    read = index_records(shards).reader()
    assert read(tf.constant(2, tf.int64)).numpy() == RECORDS[2]
    with pytest.raises(tf.errors.DataLossError):
        read(tf.constant(3, tf.int64))
