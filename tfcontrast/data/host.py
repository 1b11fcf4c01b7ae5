"""How the host works on a data set: its threads, its memory, the order of its results."""

import os

import tensorflow as tf

from tfcontrast.data.source import Source

PREFETCH = 2

# For functions in which Python decides nothing by a tensor's value. Looking for Python to convert
# takes longer than the rest of their tracing.
as_written = tf.autograph.experimental.do_not_convert


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_options() -> tf.data.Options:
    """The same elements in the same order whatever the threads do."""
    options = tf.data.Options()
    options.deterministic = True
    # The first batch is compiled while the training step is traced.
    options.experimental_warm_start = True
    # Distributed over workers, each takes its share of every batch; there are no files to deal.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return options


def resident_rows(source: Source) -> tuple[tf.Tensor, tf.Tensor]:
    """The resident images and labels as tensors of the host, whatever devices there are."""
    with tf.device("CPU:0"):
        return tf.constant(source.images), tf.constant(source.labels)
