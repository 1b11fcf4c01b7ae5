"""Runs that wait at a chosen place for a signal; started by ``test_signals.py``.

This process has imported everything and has run nothing, so that it has one thread, and forks a
child a run. At the place the child says that it is there, and waits a while, or for good.
"""

import json
import os
import pathlib
import signal
import sys
import time

import plain_views
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast import run
from tfcontrast.methods import SimCLR
from tfcontrast.train import callbacks, checkpoints, measure, pretrain

STEP = 7  # the one that is met


class Place:
    """Where a run is to be met: ``here`` says so once, and waits."""

    def __init__(self, ready, seconds):
        self.ready, self.seconds = pathlib.Path(ready), seconds

    def here(self):
        if not self.ready.exists():
            self.ready.touch()
            time.sleep(self.seconds)


def in_a_step(place):
    """Inside of TensorFlow, which has left the main thread waiting."""
    compute = SimCLR.compute_losses

    def compute_losses(self, outputs, batch):
        tf.py_function(
            lambda step: place.here() if step == STEP - 1 else None, [self.optimizer.iterations], []
        )
        return compute(self, outputs, batch)

    SimCLR.compute_losses = compute_losses


def in_the_monitor(place):
    batches, count = callbacks.KnnMonitor._batches, [0]

    def wait(self, dataset, logs):
        for batch in batches(self, dataset, logs):
            count[0] += 1
            if count[0] == 10:  # 6 + 1 batches a monitor: amid the second epoch's
                place.here()
            yield batch

    callbacks.KnnMonitor._batches = wait


def while_saving(place):
    write = checkpoints._write_manifest

    def wait(work, about):
        if about["step"] == 6:
            place.here()
        write(work, about)

    checkpoints._write_manifest = wait


def waiting_for_data(place):
    make = data_lib.train_dataset

    def wait(count, batch):
        def read(count):
            if count == STEP - 1:
                place.here()
            return count

        with tf.control_dependencies([tf.py_function(read, [count], tf.int64)]):
            return tf.nest.map_structure(tf.identity, batch)

    data_lib.train_dataset = lambda *a, **k: make(*a, **k).enumerate().map(wait).prefetch(1)


def in_the_evaluation(place):
    extract = measure.evaluate.extract_features

    def wait(embed, dataset):
        if isinstance(dataset, tf.data.Dataset):  # the monitor's is a generator
            place.here()
        return extract(embed, dataset)

    measure.evaluate.extract_features = wait


def opening_data(place):
    opened = pretrain.build.open_data

    def wait(config):
        place.here()
        return opened(config)

    pretrain.build.open_data = wait


PLACES = {
    f.__name__: f
    for f in (
        in_a_step, in_the_monitor, while_saving, waiting_for_data, in_the_evaluation, opening_data,
    )
}  # fmt: skip


def live(words, where, ready, seconds, said):
    """A child's life, in a session of its own."""
    os.setsid()
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{said}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    plain_views.use()
    PLACES[where](Place(ready, seconds))
    return run.main(["run", *words])


def serve():
    """Forks a child for every line of standard input; tells its number, then how it ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = live(*json.loads(line))
            except BaseException:
                sys.excepthook(*sys.exc_info())
            os._exit(code)
        print(child, file=answers, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    sys.exit(serve())
