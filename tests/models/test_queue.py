"""The queue against a list that drops its oldest rows, on 1, 2 and 4 replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.models import Queue
from tfcontrast.train import state


def make_queue(strategy=None, *, size=7, dim=3, **options):
    with (strategy or tf.distribute.get_strategy()).scope():
        return Queue(size, dim, seed=5, name="queue", **options)


def variables(queue):
    return dict(state.named_variables(queue, "queue"))


def batches(count, rows=4, dim=3):
    return np.random.default_rng(0).normal(size=[count, rows, dim]).astype(np.float32)


class SlowQueue:
    """What a queue is: places in turn, and when each was written."""

    def __init__(self, first_rows):
        self.rows, self.labels = first_rows.copy(), [-1] * len(first_rows)
        self.written, self.cursor, self.pushes = [0] * len(first_rows), 0, 0

    def push(self, rows, labels):
        self.pushes += 1
        for row, label in zip(rows, labels, strict=True):
            self.rows[self.cursor], self.labels[self.cursor] = row, label
            self.written[self.cursor] = self.pushes
            self.cursor = (self.cursor + 1) % len(self.rows)

    def age(self):
        return np.mean([self.pushes - written for written in self.written])


def pusher(queue, strategy=None, **options):
    """A function that pushes a global batch from the replicas' shares, as a method does."""
    strategy = strategy or tf.distribute.get_strategy()

    def step(*everyone):
        count = len(everyone[0]) // strategy.num_replicas_in_sync
        first = distribute.replica_id() * count
        shares = [values[first : first + count] for values in everyone]
        queue.push(*[distribute.gather(share, differentiable=False) for share in shares])

    return tf.function(lambda *everyone: strategy.run(step, args=everyone), **options)


@pytest.mark.parametrize("rows", [4, 8])
@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_is_the_slow_queue_and_the_same_on_every_replica(strategy_of, replicas, rows):
    strategy = strategy_of(replicas)
    queue = make_queue(strategy, size=11, with_labels=True)
    slow, push = SlowQueue(queue.read().numpy()), pusher(queue, strategy)
    for step, batch in enumerate(batches(6, rows)):
        labels = np.arange(rows) + 10 * step
        slow.push(batch, labels)
        push(batch, labels)
        np.testing.assert_array_equal(queue.read(), slow.rows)
        np.testing.assert_array_equal(queue.read_labels(), slow.labels)
        assert state.values(variables(queue))["queue/cursor"] == slow.cursor
        assert float(queue.age()) == pytest.approx(slow.age())
        assert bool(queue.is_full()) == all(slow.written)
    assert bool(queue.is_full())
    if replicas > 1:
        for name, variable in variables(queue).items():
            copies = [copy.numpy() for copy in variable.value.values]
            assert len(copies) == replicas
            assert all(np.array_equal(copy, copies[0]) for copy in copies), name


def test_starts_as_rows_of_length_one_that_the_seed_decides():
    rows = make_queue(size=5000, dim=4).read().numpy()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(rows.mean(0), 0, atol=4 * 0.5 / np.sqrt(5000))
    np.testing.assert_allclose(rows.T @ rows / 5000, np.eye(4) / 4, atol=0.02)
    keras.utils.set_random_seed(99)
    np.testing.assert_array_equal(make_queue(size=5000, dim=4).read(), rows)
    assert np.any(Queue(5000, 4, seed=6).read() != rows)
    assert not bool(make_queue().is_full())
    assert float(make_queue().age()) == 0


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_batch_that_is_not_finite_leaves_everything_as_it_was(strategy_of, replicas, bad):
    strategy = strategy_of(replicas)
    queue = make_queue(strategy, with_labels=True)
    push = pusher(queue, strategy)
    good, poisoned, last = batches(3)
    poisoned[-1, 1] = bad
    push(good, np.arange(4))
    before = state.values(variables(queue))
    push(poisoned, np.arange(4))
    for name, variable in variables(queue).items():
        for copy in getattr(variable.value, "values", [variable.value]):
            np.testing.assert_array_equal(copy.numpy(), before[name], err_msg=name)
    push(last, np.arange(4))
    np.testing.assert_array_equal(queue.read()[4:7], last[:3])
    np.testing.assert_array_equal(queue.read()[0], last[3])


def test_compiled_it_does_the_same():
    graph, compiled = make_queue(with_labels=True), make_queue(with_labels=True)
    pushes = [pusher(graph), pusher(compiled, jit_compile=True)]
    poisoned = batches(1)[0] * np.nan
    for batch in [*batches(3), poisoned, *batches(2)]:
        for push in pushes:
            push(batch, np.arange(4))
    expected, found = (state.values(variables(queue)) for queue in (graph, compiled))
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    age = tf.function(compiled.age, jit_compile=True)
    assert float(age()) == pytest.approx(float(graph.age()))


def test_rows_that_were_read_before_a_push_are_the_old_ones():
    queue = make_queue()
    first = queue.read().numpy()

    @tf.function
    def step(batch):
        before = queue.read()
        queue.push(batch)
        return before, queue.read()

    before, after = step(batches(1)[0])
    np.testing.assert_array_equal(before, first)
    np.testing.assert_array_equal(after[:4], batches(1)[0])


def test_state_is_float32_beside_bfloat16_and_without_gradient():
    queue = make_queue(dtype="mixed_bfloat16")

    class Reader(keras.layers.Layer):
        def __init__(self):
            super().__init__(dtype="mixed_bfloat16")
            self.queue = queue

        def call(self, rows):
            self.queue.push(rows)
            return self.queue.read()

    rows = tf.constant(batches(1)[0], tf.bfloat16)
    with tf.GradientTape() as tape:
        tape.watch(rows)
        read = Reader()(rows)
        loss = tf.reduce_sum(tf.cast(rows, tf.float32) @ tf.transpose(read))
    assert read.dtype == tf.float32
    np.testing.assert_array_equal(read[:4], tf.cast(rows, tf.float32))
    expected = tf.tile(tf.reduce_sum(read, 0)[None], [4, 1])
    np.testing.assert_allclose(
        tf.cast(tape.gradient(loss, rows), tf.float32), expected, rtol=1e-2, atol=1e-2
    )
    assert {v.dtype for v in queue.variables} == {"float32", "int64"}
    assert not queue.trainable_variables


def test_a_float64_model_has_a_float64_queue():
    assert make_queue(dtype="float64").read().dtype == tf.float64


@pytest.mark.parametrize(
    ("rows", "labels", "options", "message"),
    [
        ((8, 3), None, {}, r"must not be smaller than the global batch\. Received: size 7 and 8"),
        ((4, 2), None, {}, r"rows must be \[rows, 3\].*Received: \(4, 2\)$"),
        ((4,), None, {}, r"rows must be .*Received: \(4,\)$"),
        ((4, 3), (4,), {}, r"Received: with_labels=False and labels$"),
        ((4, 3), None, {"with_labels": True}, r"Received: with_labels=True and no labels$"),
        ((4, 3), (3,), {"with_labels": True}, r"labels must be \[4\].*Received: \(3,\)$"),
    ],
)
def test_what_does_not_fit_is_refused(rows, labels, options, message):
    queue = make_queue(**options)
    labels = None if labels is None else tf.zeros(labels, tf.int64)
    with pytest.raises(ValueError, match=message):
        queue.push(tf.zeros(rows), labels)


def test_an_unknown_batch_size_is_refused():
    queue = make_queue()
    push_any = tf.function(queue.push, input_signature=[tf.TensorSpec([None, 3])])
    with pytest.raises(ValueError, match=r"Received: \(None, 3\)"):
        push_any(tf.zeros([4, 3]))


@pytest.mark.parametrize(("size", "dim"), [(0, 3), (3, 0)])
def test_an_empty_queue_is_refused(size, dim):
    with pytest.raises(ValueError, match=rf"Received: {size} and {dim}$"):
        Queue(size, dim, seed=0)


def test_labels_that_are_not_kept_cannot_be_read():
    with pytest.raises(ValueError, match=r"keeps no labels\. Received: with_labels=False"):
        make_queue().read_labels()
