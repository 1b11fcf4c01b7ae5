import functools
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods.train_function import InputWait, make_train_function


@pytest.fixture
def make_small(make_method, dense_backbone):
    """``make_method`` with little to trace: it is the function around the step that counts here."""
    return functools.partial(make_method, backbone=dense_backbone)


def test_it_takes_the_steps_of_an_execution_and_returns_the_metrics(make_small, batches):
    method = make_small("simclr", compile={"steps_per_execution": 3})
    stream = iter(batches(2))
    logs = make_train_function(method)(stream)
    assert int(method.optimizer.iterations) == 3
    assert logs.keys() == {metric.name for metric in method.metrics}
    counts = {metric.name: float(metric.count) for metric in method.metrics}
    assert set(counts.values()) == {3.0}
    for metric in method.metrics:
        np.testing.assert_allclose(logs[metric.name], metric.result(), rtol=1e-6)


@pytest.mark.parametrize(
    ("compiled", "replicas", "expected"),
    [
        ({"run_eagerly": True}, 1, "eager"),
        ({}, 1, "graph"),
        ({"jit_compile": True}, 1, "program"),
        ({"jit_compile": True}, 2, "graph"),  # XLA takes no collective of a mirrored strategy
    ],
)
def test_how_a_step_runs(make_small, batches, strategy_of, compiled, replicas, expected):
    strategy = strategy_of(replicas)
    method = make_small("simclr", classes=0, strategy=strategy, compile=compiled)
    function = make_train_function(method)
    if expected == "eager":
        assert not hasattr(function, "get_concrete_function")
        return
    data = batches(2)
    stream = iter(data if replicas == 1 else strategy.experimental_distribute_dataset(data))
    graph = function.get_concrete_function(stream).graph
    programs = [
        op
        for op in graph.get_operations()
        if "Call" in op.type and "_XlaMustCompile" in op.node_def.attr
        if op.get_attr("_XlaMustCompile")
    ]
    assert len(programs) == (expected == "program")


@pytest.mark.parametrize(("name", "replicas"), [("simclr", 1), ("moco", 2), ("swav", 1)])
def test_several_fits_trace_the_step_once(make_small, batches, strategy_of, name, replicas):
    strategy = strategy_of(replicas)
    method = make_small(name, strategy=strategy)
    plain, traces = method.train_step, []

    def train_step(batch):
        traces.append(batch)
        return plain(batch)

    method.train_step = train_step
    data = batches(method.num_views)
    if replicas > 1:
        data = strategy.experimental_distribute_dataset(data)
    for epochs, steps in ((3, 2), (1, 1), (2, 3)):
        method.fit(data, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0)
    assert int(tf.convert_to_tensor(method.optimizer.iterations)) == 3 * 2 + 1 + 2 * 3
    assert len(traces) == replicas


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_view_maker_makes_the_views_within_the_step(make_small, batches, jit_compile):
    def unfinished(batch):
        rest = {name: value for name, value in batch.items() if name != "views"}
        return {**rest, "images": batch["views"], "counter": batch["index"]}

    def view_maker(images, counter):
        assert counter.dtype == tf.int64
        return tuple(tf.square(image) for image in images)

    def squared(batch):
        return {**batch, "views": tuple(tf.square(view) for view in batch["views"])}

    losses = {}
    cases = {"given": squared, "made": unfinished} | ({} if jit_compile else {"whole": dict})
    for name, change in cases.items():
        method = make_small("simclr", compile={"jit_compile": jit_compile})
        if name == "made":
            method.view_maker = view_maker
        stream = iter(batches(2).map(change))
        losses[name] = [float(make_train_function(method)(stream)["loss"]) for _ in range(2)]
    assert losses["made"] == pytest.approx(losses["given"], rel=1e-5)
    assert losses["made"] != pytest.approx(losses.get("whole", [0, 0]), rel=1e-3)


def test_a_method_makes_it_once_and_again_when_forced(make_small):
    method = make_small("simclr", classes=0)
    method.make_train_function()
    first = method.train_function
    method.make_train_function()
    assert method.train_function is first
    method.make_train_function(force=True)
    assert method.train_function is not first


def test_without_variables_it_says_what_to_call():
    class Unbuilt(tf.Module):
        optimizer = type("Optimizer", (), {"built": False})

    with pytest.raises(ValueError, match=r"call prepare\(image_size\).* Received: unbuilt with"):
        make_train_function(Unbuilt("unbuilt"))


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_wait_for_the_input_is_counted(make_small, batches, strategy_of, replicas):
    """Batches that take 0.2 s each, three calls of two steps: the wait is theirs."""
    strategy = strategy_of(replicas)
    method = make_small("simclr", classes=0, strategy=strategy, compile={"steps_per_execution": 2})

    def slow(number):
        time.sleep(0.2)
        return number

    def late(batch):
        pause = tf.numpy_function(slow, [tf.constant(0)], tf.int32)
        with tf.control_dependencies([pause]):
            return tf.nest.map_structure(tf.identity, batch)

    data = batches(2).map(late)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.experimental_optimization.inject_prefetch = False  # nothing is made during a step
    data = data.with_options(options)
    stream = iter(data if replicas == 1 else strategy.experimental_distribute_dataset(data))
    function = make_train_function(method)
    function(stream)
    before, start = method.input_wait.seconds, time.perf_counter()
    for _ in range(3):
        function(stream)
    waited, passed = method.input_wait.seconds - before, time.perf_counter() - start
    # A strategy prepares its next batches while a step runs, how many is its own affair.
    assert (1.0 if replicas == 1 else 0.0) <= waited <= passed


def test_a_wait_is_a_sum():
    wait = InputWait()
    assert wait.seconds == 0.0
    wait.add(tf.constant(0.25, tf.float64))
    wait.add(tf.constant(1.5, tf.float64))
    assert wait.seconds == 1.75


ONE_CORE = """
import os, time, types
if hasattr(os, "sched_setaffinity"):  # where it is not, threads are all that is limited
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import tensorflow as tf
tf.config.threading.set_inter_op_parallelism_threads(1)
from tfcontrast.methods.train_function import InputWait, make_train_function

total = tf.Variable(0.0)

def train_step(batch):
    for _ in range(20):
        batch = tf.matmul(batch, batch)
    total.assign_add(tf.reduce_sum(batch))

model = types.SimpleNamespace(
    optimizer=types.SimpleNamespace(built=True), jit_compile=False, run_eagerly=False, metrics=[],
    distribute_strategy=tf.distribute.get_strategy(), train_step=train_step,
    steps_per_execution=1, input_wait=InputWait(), view_maker=None,
)
step = make_train_function(model)
batches = iter(tf.data.Dataset.from_tensors(tf.zeros([600, 600])).repeat().prefetch(2))
step(batches)
before, start = model.input_wait.seconds, time.perf_counter()
for _ in range(5):
    step(batches)
float(total)
print((model.input_wait.seconds - before) / (time.perf_counter() - start))
"""


def test_on_one_core_the_wait_does_not_hold_the_step():
    """The one thread must not go on with the step before it has taken the time."""
    told = subprocess.run(
        [sys.executable, "-c", ONE_CORE], capture_output=True, text=True, check=True
    ).stdout
    assert float(told) < 0.2
