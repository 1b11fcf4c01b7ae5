import dataclasses
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast.augment import ViewRecipe
from tfcontrast.data.service import in_order
from tfcontrast.errors import UserError

RECIPES = (
    ViewRecipe(image_size=8, crop_probability=1.0, crop_area=(0.3, 1.0), flip_probability=0.5),
    ViewRecipe(image_size=5, crop_probability=0.8, crop_area=(0.2, 0.8), noise_stddev=0.1),
)


def no_views(images, counters):
    """For what is refused before a view is made."""
    return ()


def element(number, sign=1.0):
    return {"n": number, "x": (tf.fill([2, 3], sign * tf.cast(number, tf.float32)),)}


def made(number):
    return tf.data.Dataset.from_tensors(number).map(lambda n: element(n, -1.0))


def sorted_numbers(arrivals, start, ahead):
    """What comes out: numbers, negative where they had to be made."""
    arrivals = tf.data.Dataset.from_tensor_slices(np.array(arrivals, np.int64)).map(element)
    out = in_order(arrivals, lambda e: e["n"], start=start, make=made, ahead=ahead)
    found = []
    for each in out:
        assert each["x"][0].shape == (2, 3)
        assert abs(int(each["x"][0][1, 2])) == int(each["n"])
        found.append(int(each["x"][0][0, 0]))
    return found


@pytest.mark.parametrize("ahead", [4, 7])
def test_what_arrives_nearly_in_order_is_sorted(ahead):
    arrivals = [7, 5, 6, 9, 10, 8, 11, 13, 14, 15, 12]
    assert sorted_numbers(arrivals, 5, ahead) == list(range(5, 16))


def test_what_is_too_late_is_made_and_left_out_when_it_comes():
    #                         3 is made when 7 comes
    assert sorted_numbers([1, 2, 4, 5, 6, 7, 3, 8, 9], 1, 4) == [1, 2, -3, 4, 5, 6, 7, 8, 9]
    assert sorted_numbers([3, 4, 5, 6], 1, 3) == [-1, -2, 3, 4, 5, 6]


def test_a_leap_is_made_up_for():
    expected = [0, 1, -2, 3, *range(-4, -17, -1), 17, 18, 19, 20]
    assert sorted_numbers([0, 1, 3, 20, 17, 18, 19], 0, 4) == expected


def test_twice_the_same_is_taken_once():
    assert sorted_numbers([1, 1, 2, 3, 3, 2, 5, 4, 5], 1, 4) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("localhost:5000", r"must be like grpc://host:5000. Received: 'localhost:5000'"),
        ("grpc://localhost", "must be like"),
        ("grpc://localhost:99999", "must be like"),
        ("grpc://127.0.0.1:{port}", r"--data_service=grpc://127.0.0.1:\d+ does not answer \("),
        ("grpc://no-such-host.invalid:5000", "does not answer"),
    ],
)
def test_an_address_that_is_none_or_does_not_answer(toy_source, address, message):
    with socket.socket() as probe:  # a port that nobody listens at
        probe.bind(("127.0.0.1", 0))
        address = address.format(port=probe.getsockname()[1])
    with pytest.raises(UserError, match=message) as caught:
        data_lib.train_dataset(
            toy_source("resident"), RECIPES, batch_size=4, seed=0, service=address, views=no_views
        )
    assert "\n" not in str(caught.value)


def test_images_that_need_this_process_cannot_be_served(toy_source):
    source = dataclasses.replace(toy_source("many_sizes"), in_process=True)
    with pytest.raises(UserError, match="only this process can decode"):
        data_lib.train_dataset(
            source, RECIPES, batch_size=4, seed=0, service="grpc://127.0.0.1:1", views=no_views
        )


WORKER = """
import sys, tensorflow as tf
service = tf.data.experimental.service
config = service.WorkerConfig(dispatcher_address=sys.argv[1], heartbeat_interval_ms=200)
worker = service.WorkerServer(config)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def workers():
    """A dispatcher here and two worker processes."""
    dispatcher = tf.data.experimental.service.DispatchServer()
    address = dispatcher.target.split("://")[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, address], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        for worker in started:
            assert worker.stdout.readline() == "ready\n"
        yield dispatcher.target, started
    finally:
        for worker in started:
            worker.kill()
            worker.communicate()


@pytest.mark.slow
def test_two_worker_processes_make_every_batch_of_an_epoch_once_and_in_order(workers):
    address, started = workers
    source = data_lib.open_source("digits", "test")
    # Traced once for each number of rows, and not for each of the data sets.
    views = data_lib.view_maker(source, RECIPES, seed=0, jit_compile=False)
    options = {"batch_size": 32, "seed": 0, "views": views}
    steps = data_lib.steps_per_epoch(source, 32)
    local = list(data_lib.train_dataset(source, RECIPES, **options).take(3 * steps))
    for start, share, count in ((0, (0, 1, 1), steps), (2, (2, 2, 4), 8)):
        served = data_lib.train_dataset(
            source, RECIPES, service=address, start_step=start, share=share, **options
        ).take(count)
        whole = data_lib.train_dataset(
            source, RECIPES, start_step=start, share=share, **options
        ).take(count)
        seen = []
        for ours, expected in zip(served, whole, strict=True):
            seen += ours["index"].numpy().tolist()
            np.testing.assert_array_equal(ours["index"], expected["index"])
            np.testing.assert_array_equal(ours["label"], expected["label"])
            for view, other in zip(ours["views"], expected["views"], strict=True):
                np.testing.assert_allclose(view, other, rtol=0, atol=1e-6)
        assert len(set(seen)) == len(seen)
    assert len(local) == 3 * steps

    order = np.arange(32 * steps)[::-1] // 2  # every image twice
    served = data_lib.train_dataset(source, RECIPES, service=address, order=order, **options)
    seen = [batch["index"].numpy() for batch in served.take(steps + 2)]
    np.testing.assert_array_equal(np.concatenate(seen), [*order, *order[:64]])

    # One of them is killed: the run goes on, with the same batches.
    served = iter(data_lib.train_dataset(source, RECIPES, service=address, **options))
    for step, expected in enumerate(local):
        if step == 5:
            started[0].kill()
        ours = next(served)
        np.testing.assert_array_equal(ours["index"], expected["index"])
        for view, other in zip(ours["views"], expected["views"], strict=True):
            np.testing.assert_allclose(view, other, rtol=0, atol=1e-6)
