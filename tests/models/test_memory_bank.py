"""The memory bank against a loop over examples in float64, on 1, 2 and 4 replicas."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.models import MemoryBank

INDICES = np.array([9, 2, 5, 2, 0, 7, 2, 5])  # 2 and 5 come several times


def make_bank(strategy=None, *, size=10, dim=3, **options):
    with (strategy or tf.distribute.get_strategy()).scope():
        return MemoryBank(size, dim, seed=5, name="bank", **options)


def embeddings(seed=0):
    return np.random.default_rng(seed).normal(size=[8, 3]).astype(np.float32)


def slow_update(bank, indices, rows, momentum):
    old, new = bank.astype(np.float64), bank.astype(np.float64)
    for index, row in zip(indices, rows, strict=True):
        mixed = momentum * old[index] + (1 - momentum) * row
        new[index] = mixed / np.linalg.norm(mixed)
    return new


def updater(bank, strategy=None, momentum=0.5, **options):
    """A function that updates by a global batch from the replicas' shares, as a method does."""
    strategy = strategy or tf.distribute.get_strategy()

    def step(*everyone):
        count = len(everyone[0]) // strategy.num_replicas_in_sync
        first = distribute.replica_id() * count
        shares = [values[first : first + count] for values in everyone]
        bank.update(*[distribute.gather(part, differentiable=False) for part in shares], momentum)

    return tf.function(lambda *everyone: strategy.run(step, args=everyone), **options)


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_is_the_slow_bank_and_the_same_on_every_replica(strategy_of, replicas):
    strategy = strategy_of(replicas)
    bank, one = make_bank(strategy), make_bank()
    updates = [updater(bank, strategy, 0.3), updater(one, momentum=0.3)]
    for seed in range(3):
        expected = slow_update(bank.read().numpy(), INDICES, embeddings(seed), 0.3)
        for update in updates:
            update(INDICES, embeddings(seed))
        np.testing.assert_allclose(bank.read(), expected, atol=1e-6)
    np.testing.assert_array_equal(bank.read(), one.read())
    for variable in bank.variables:
        for copy in getattr(variable.value, "values", [variable.value]):
            np.testing.assert_array_equal(copy.numpy(), one.read())


def test_a_golden_row():
    """Row 0 of five rows norm(sin(.3 + .5 k + 1.7 j)), moved by norm(sin(1 + 1.3 j))."""
    columns = np.arange(6)
    bank = make_bank(size=5, dim=6)
    rows = np.sin(0.3 + 0.5 * np.arange(5)[:, None] + 1.7 * columns)
    bank.variables[0].assign(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    new = np.sin(1 + 1.3 * columns)
    bank.update(tf.constant([0], tf.int64), tf.constant([new / np.linalg.norm(new)]), 0.5)
    golden = [0.338099, 0.508002, -0.298318, -0.532418, 0.210639, 0.459120]
    np.testing.assert_allclose(bank.lookup(tf.constant([0]))[0], golden, atol=1e-6)


def test_only_the_batchs_rows_move_and_lie_on_the_sphere():
    bank = make_bank()
    before = bank.read().numpy()
    updater(bank)(INDICES, embeddings())
    after = bank.read().numpy()
    touched = np.unique(INDICES)
    moved = np.any(before != after, axis=1)
    np.testing.assert_array_equal(np.flatnonzero(moved), touched)
    np.testing.assert_allclose(np.linalg.norm(after[touched], axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(
        bank.lookup(tf.constant(INDICES.reshape(2, 4))), after[INDICES].reshape(2, 4, 3)
    )


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_the_ends_of_the_momentum(momentum):
    bank = make_bank()
    first = bank.read().numpy()
    rows = embeddings()
    updater(bank, momentum=momentum)(INDICES, rows)
    wanted = first[INDICES[4]] if momentum else rows[4]
    np.testing.assert_allclose(bank.read()[0], wanted / np.linalg.norm(wanted), atol=1e-6)
    # of the three embeddings of example 2 the last one counts
    wanted = first[2] if momentum else rows[6]
    np.testing.assert_allclose(bank.read()[2], wanted / np.linalg.norm(wanted), atol=1e-6)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_last_of_very_many_counts_in_whatever_order_they_are_written(monkeypatch, backwards):
    """A device may write one place's values in any order; a CPU writes them as they come."""
    bank = make_bank(size=2, dim=8)
    variable = type(bank.variables[0].value)
    write = variable.scatter_update

    def write_backwards(self, slices):
        return write(self, tf.IndexedSlices(slices.values[::-1], slices.indices[::-1]))

    if backwards:
        monkeypatch.setattr(variable, "scatter_update", write_backwards)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=[4096, 8]).astype(np.float32)
    indices = rng.integers(0, 2, 4096)
    for jit_compile in (False, True):
        updater(bank, momentum=0.0, jit_compile=jit_compile)(indices, rows)
        for example in (0, 1):
            last = rows[np.flatnonzero(indices == example)[-1]]
            np.testing.assert_allclose(bank.read()[example], last / np.linalg.norm(last), atol=1e-6)


def test_starts_uniform_with_length_one_on_average():
    rows = make_bank(size=5000, dim=4).read().numpy()
    assert np.abs(rows).max() <= np.sqrt(3 / 4)
    np.testing.assert_allclose(np.mean(rows**2, axis=0), 1 / 4, rtol=0.05)
    np.testing.assert_allclose(np.mean(rows, axis=0), 0, atol=4 * 0.5 / np.sqrt(5000))
    keras.utils.set_random_seed(99)
    np.testing.assert_array_equal(make_bank(size=5000, dim=4).read(), rows)
    assert np.any(MemoryBank(5000, 4, seed=6).read() != rows)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_batch_that_is_not_finite_moves_nothing(strategy_of, replicas):
    strategy = strategy_of(replicas)
    bank = make_bank(strategy)
    before = bank.read().numpy()
    poisoned = embeddings()
    poisoned[1, 2] = np.nan
    updater(bank, strategy)(INDICES, poisoned)
    for copy in getattr(bank.variables[0].value, "values", [bank.variables[0].value]):
        np.testing.assert_array_equal(copy.numpy(), before)


def test_compiled_it_does_the_same():
    graph, compiled = make_bank(), make_bank()
    updates = [updater(graph), updater(compiled, jit_compile=True)]
    for seed in range(3):
        for update in updates:
            update(INDICES, embeddings(seed))
    np.testing.assert_allclose(graph.read(), compiled.read(), atol=1e-6)


def test_state_is_float32_beside_bfloat16_and_not_trained():
    bank = make_bank(dtype="mixed_bfloat16")

    class Reader(keras.layers.Layer):
        def __init__(self):
            super().__init__(dtype="mixed_bfloat16")
            self.bank = bank

        def call(self, rows):
            self.bank.update(tf.constant(INDICES), rows)
            return self.bank.lookup(tf.constant(INDICES))

    rows = embeddings().astype(tf.bfloat16.as_numpy_dtype)
    expected = slow_update(bank.read().numpy(), INDICES, rows.astype(np.float64), 0.5)
    found = Reader()(tf.constant(rows))
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected[INDICES], atol=1e-6)
    assert not bank.trainable_variables
    assert make_bank(dtype="float64").read().dtype == tf.float64


@pytest.mark.parametrize(
    ("indices", "rows", "momentum", "message"),
    [
        ((4,), (4, 2), 0.5, r"rows must be \[rows, 3\].*Received: \(4, 2\) and \(4,\)$"),
        ((5,), (4, 3), 0.5, r"Received: \(4, 3\) and \(5,\)$"),
        ((4, 1), (4, 3), 0.5, r"Received: \(4, 3\) and \(4, 1\)$"),
        ((4,), (4, 3), 1.5, r"momentum must be in \[0, 1\]\. Received: 1\.5$"),
    ],
)
def test_what_does_not_fit_is_refused(indices, rows, momentum, message):
    with pytest.raises(ValueError, match=message):
        make_bank().update(tf.zeros(indices, tf.int64), tf.zeros(rows), momentum)


@pytest.mark.parametrize(("size", "dim"), [(0, 3), (3, 0)])
def test_an_empty_bank_is_refused(size, dim):
    with pytest.raises(ValueError, match=rf"Received: {size} and {dim}$"):
        MemoryBank(size, dim, seed=0)
