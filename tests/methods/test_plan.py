import dataclasses

import pytest
import tensorflow as tf

from tfcontrast.methods import Plan

NUMBERS = ("batch_size", "num_examples", "steps_per_epoch", "total_steps")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_that_is_needed_must_be_positive(name, value):
    plan = Plan(**{**dict.fromkeys(NUMBERS, 1), name: value})
    others = [other for other in NUMBERS if other != name]
    plan.need(*others, why="nothing")
    message = rf"^the cosine needs plan=Plan\({name}=...\), a positive number. Received: {value}$"
    with pytest.raises(ValueError, match=message):
        plan.need(*others, name, why="the cosine")


def test_a_whole_plan_has_what_is_needed_and_an_empty_one_nothing():
    Plan(batch_size=1, num_examples=2, steps_per_epoch=3, total_steps=4).need(*NUMBERS, why="all")
    Plan().need(why="nothing")
    for name in NUMBERS:
        with pytest.raises(ValueError, match=f"{name}=.*Received: 0"):
            Plan().need(name, why="it")


def test_a_plan_does_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Plan().seed = 1


def test_the_seed_of_a_step_is_the_runs_and_the_steps():
    found = Plan(seed=5).step_seed(tf.constant(2**20, tf.int64))
    assert found.dtype == tf.int32
    assert found.numpy().tolist() == [5, 2**20]
    # the largest seed does not fit into int32 and keeps its bits
    top = Plan(seed=2**32 - 1).step_seed(tf.constant(0, tf.int64))
    assert top.numpy().tolist() == [-1, 0]
