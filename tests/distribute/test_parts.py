import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute


def test_without_parts_rows_are_the_replicas_block(strategy_of):
    assert distribute.rows_in_batch(4).numpy().tolist() == [0, 1, 2, 3]
    strategy = strategy_of(2)
    found = strategy.experimental_local_results(strategy.run(lambda: distribute.rows_in_batch(3)))
    assert [rows.numpy().tolist() for rows in found] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("replicas", [1, 2])
def test_the_parts_together_are_the_batch(strategy_of, replicas):
    strategy, parts = strategy_of(replicas), 3
    size = 12 // replicas // parts

    @tf.function
    def rows(number):
        def run():
            with distribute.part_of_share(number, parts):
                return distribute.rows_in_batch(size)

        return strategy.experimental_local_results(strategy.run(run))

    for number in range(parts):
        found = np.concatenate([part.numpy() for part in rows(tf.constant(number))])
        assert found.tolist() == list(range(number, 12, parts))  # on any number of replicas


def test_afterwards_it_is_the_whole_share_again_even_after_an_error():
    def fail():
        with distribute.part_of_share(1, 2):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert distribute.rows_in_batch(2).numpy().tolist() == [0, 1]
