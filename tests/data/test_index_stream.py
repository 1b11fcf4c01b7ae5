import numpy as np
import pytest

from tfcontrast.data import index_stream
from tfcontrast.errors import UserError


def steps(dataset, count):
    pairs = [(c.numpy(), i.numpy()) for c, i in dataset.take(count)]
    return np.stack([c for c, _ in pairs]), np.stack([i for _, i in pairs])


@pytest.mark.parametrize(("count", "batch"), [(12, 4), (13, 4), (5, 5), (7, 1), (100, 32)])
def test_each_epoch_is_part_of_its_own_permutation(count, batch):
    per_epoch = count // batch
    _, indices = steps(index_stream(count, batch, seed=1), 4 * per_epoch)
    epochs = indices.reshape(4, per_epoch * batch)
    for epoch in epochs:
        assert len(set(epoch)) == per_epoch * batch
        assert set(epoch) <= set(range(count))
    assert len({tuple(epoch) for epoch in epochs}) == 4 or count == 1


def test_what_an_epoch_leaves_out_changes():
    _, indices = steps(index_stream(9, 4, seed=0), 2 * 40)
    left_out = [set(range(9)) - set(epoch) for epoch in indices.reshape(40, 8)]
    assert all(len(rest) == 1 for rest in left_out)
    assert len(set.union(*left_out)) == 9


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4, 7, 30])
def test_a_start_at_any_step_is_the_tail(start):
    whole = steps(index_stream(13, 4, seed=9), 40)
    tail = steps(index_stream(13, 4, seed=9, start_step=start), 10)
    np.testing.assert_array_equal(tail[0], whole[0][start : start + 10])
    np.testing.assert_array_equal(tail[1], whole[1][start : start + 10])


def test_counters_number_the_examples_of_the_run():
    counters, _ = steps(index_stream(13, 4, seed=9), 10)
    np.testing.assert_array_equal(counters.ravel(), np.arange(40))


def test_a_late_start_costs_no_walk():
    # 10^12 steps could not be walked in a test.
    counters, indices = steps(index_stream(10, 5, seed=0, start_step=10**12 + 1), 1)
    assert counters.tolist() == [[5 * (10**12 + 1) + row for row in range(5)]]
    assert len(set(indices[0])) == 5


def test_order_follows_the_seed_and_is_fixed():
    orders = {
        seed: tuple(steps(index_stream(8, 8, seed=seed), 1)[1][0]) for seed in (0, 1, -1, 2**63)
    }
    assert len(set(orders.values())) == 4
    # Golden value of tf.random.experimental.stateless_shuffle (Philox, seed [0, 0]), TF 2.21.
    assert list(orders[0]) == GOLDEN


GOLDEN = [6, 4, 1, 0, 3, 2, 5, 7]


def test_first_places_are_uniform():
    _, indices = steps(index_stream(6, 6, seed=4), 1200)
    table = np.stack([np.bincount(indices[:, place], minlength=6) for place in range(6)])
    # 1200 epochs, p = 1/6: standard deviation 12.9; five of them.
    assert np.abs(table - 200).max() < 65


@pytest.mark.parametrize(("count", "batch"), [(3, 4), (0, 1)])
def test_a_batch_larger_than_the_set_is_refused(count, batch):
    with pytest.raises(UserError, match=f"train_batch_size={batch} is larger .* {count} images"):
        index_stream(count, batch, seed=0)


def test_bad_numbers_are_refused():
    with pytest.raises(UserError, match="positive"):
        index_stream(3, 0, seed=0)
    with pytest.raises(ValueError, match="start_step"):
        index_stream(3, 1, seed=0, start_step=-1)


def test_an_order_of_ones_own_with_repetitions():
    order = np.array([3, 3, 0, 9, 1, 2, 8, 3])  # 2 steps of 4 out of 10
    counters, indices = steps(index_stream(10, 4, seed=1, start_step=6, order=order), 4)
    np.testing.assert_array_equal(counters.ravel(), np.arange(24, 40))
    np.testing.assert_array_equal(indices.ravel(), [*order, *order])
    tail = steps(index_stream(10, 4, seed=1, start_step=7, order=order), 3)
    np.testing.assert_array_equal(tail[1], indices[1:])
    half = steps(index_stream(10, 4, seed=1, start_step=6, order=order, share=(1, 1, 2)), 4)
    np.testing.assert_array_equal(half[1], indices[:, 2:])
    np.testing.assert_array_equal(half[0], counters[:, 2:])


@pytest.mark.parametrize(
    "order", [np.arange(7), np.arange(8) + 3, np.arange(8) - 1, np.arange(8.0)]
)
def test_a_wrong_order_is_refused(order):
    with pytest.raises(ValueError, match=r"^order must hold 8 indices below 10\. Received: "):
        index_stream(10, 4, seed=1, order=order)
