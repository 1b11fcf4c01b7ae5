"""The optimizer of a run and its schedules, from the options."""

import numpy as np
import pytest

from tfcontrast.train.build import total_steps
from tfcontrast.train.optimizers import make_run_optimizer

PER_EPOCH = 10


def make(config):
    return make_run_optimizer(config, PER_EPOCH, total_steps(config, PER_EPOCH))


def rates(config, steps):
    """The learning rates of these steps."""
    optimizer, found = make(config), []
    for step in steps:
        optimizer.iterations.assign(step)
        found.append(float(optimizer.learning_rate))
    return found


EIGHT_EPOCHS = {"learning_rate": 0.5, "train_batch_size": 64, "train_steps": 0, "train_epochs": 8}
PEAK = 0.5 * 64 / 256


def test_the_schedule_counts_epochs_in_steps(tiny_config):
    cosine = tiny_config(**EIGHT_EPOCHS, warmup_epochs=2.0)
    expected = [0.0, PEAK / 2, PEAK, PEAK / 2, 0.0]
    assert rates(cosine, [0, 10, 20, 50, 80]) == pytest.approx(expected, abs=1e-7)
    steps = tiny_config(
        **EIGHT_EPOCHS, warmup_epochs=0.0, learning_rate_schedule="step", decay_epochs="2.5,5",
        learning_rate_scaling="none",
    )  # fmt: skip
    assert rates(steps, [0, 24, 25, 49, 50]) == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005])
    stairs = tiny_config(
        **EIGHT_EPOCHS, warmup_epochs=0.0, learning_rate_schedule="exponential",
        decay_epochs="0.5", decay_rate=0.9, learning_rate_scaling="sqrt",
    )  # fmt: skip
    assert rates(stairs, [0, 4, 5, 10]) == pytest.approx([4.0, 4.0, 3.6, 3.24])


def test_the_cosine_ends_at_its_share_of_the_peak(tiny_config):
    config = tiny_config(**EIGHT_EPOCHS, warmup_epochs=2.0, final_learning_rate=0.1)
    expected = [PEAK, 0.55 * PEAK, 0.1 * PEAK]
    assert rates(config, [20, 50, 80]) == pytest.approx(expected)


def test_the_warm_up_starts_at_its_share_of_the_peak(tiny_config):
    config = tiny_config(**EIGHT_EPOCHS, warmup_epochs=2.0, initial_learning_rate=0.25)
    expected = [0.25 * PEAK, 0.625 * PEAK, PEAK, PEAK / 2]
    assert rates(config, [0, 10, 20, 50]) == pytest.approx(expected)
    without = tiny_config(**EIGHT_EPOCHS, warmup_epochs=0.0, initial_learning_rate=0.25)
    assert rates(without, [0]) == pytest.approx([PEAK])


def test_a_schedule_by_epoch_stands_still_within_one(tiny_config):
    options = {**EIGHT_EPOCHS, "warmup_epochs": 0.0}
    held = rates(tiny_config(**options, schedule_by_epoch=True), range(80))
    smooth = rates(tiny_config(**options), range(80))
    assert held == pytest.approx(np.repeat(smooth[::PER_EPOCH], PER_EPOCH))
    assert len(set(held)) == 8
    assert len(set(smooth)) == 80
    falling = [PEAK * (1 + np.cos(np.pi * epoch / 8)) / 2 for epoch in range(8)]
    assert held[::PER_EPOCH] == pytest.approx(falling, rel=1e-5)


@pytest.mark.parametrize(("first", "last"), [(0.04, 0.4), (0.4, 0.1), (0.4, 0.0)])
def test_the_weight_decay_follows_a_cosine_to_its_end(tiny_config, first, last):
    config = tiny_config(
        **EIGHT_EPOCHS, warmup_epochs=2.0, weight_decay=first, final_weight_decay=last
    )
    decay = make(config).decay
    found = [float(decay(step)) for step in (0, 20, 40, 80)]
    middle = [last + (first - last) * (1 + np.cos(np.pi * part)) / 2 for part in (0.25, 0.5)]
    assert found == pytest.approx([first, *middle, last], rel=1e-5, abs=1e-7)


def test_the_weight_decay_is_a_number_unless_it_has_an_end(tiny_config):
    assert make(tiny_config(weight_decay=0.5)).decay == 0.5
    assert make(tiny_config(weight_decay=0.0)).decay == 0.0


def test_decay_epochs_do_not_matter_to_a_cosine(tiny_config):
    assert rates(tiny_config(decay_epochs="60,75"), [0]) == pytest.approx([0.0])


def test_warm_up_ends_with_the_run(tiny_config):
    config = tiny_config(train_steps=4, warmup_epochs=100.0, learning_rate_scaling="none")
    assert rates(config, [0, 2, 4]) == pytest.approx([0.0, 0.025, 0.05])


@pytest.mark.parametrize(
    ("options", "excluded"),
    [({}, ("bias", "norm")), ({"decay_all": True}, ()), ({"lars_variant": "larc"}, ())],
)
def test_what_is_not_decayed(tiny_config, options, excluded):
    config = tiny_config(optimizer="lars", weight_decay=0.5, **options)
    optimizer = make(config)
    assert tuple(optimizer.exclude_from_decay) == excluded
    assert optimizer.decay == 0.5


@pytest.mark.parametrize("option", ["clip_norm", "clip_tensor_norm"])
def test_what_is_clipped(tiny_config, option):
    neither = {"clip_norm": 0.0, "clip_tensor_norm": 0.0}
    for value in (0.0, 0.5):
        optimizer = make(tiny_config(**{**neither, option: value}))
        found = {name: getattr(optimizer, name) for name in neither}
        assert found == {**dict.fromkeys(neither), option: value or None}
