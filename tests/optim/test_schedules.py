import math

import keras
import numpy as np
import pytest

from tfcontrast.optim import WarmupSchedule, make_schedule, scaled_learning_rate


@pytest.mark.parametrize(
    ("base", "batch", "rule", "expected"),
    [
        (0.3, 4096, "linear", 4.8),
        (0.075, 4096, "sqrt", 4.8),
        (0.075, 256, "sqrt", 1.2),
        (1.0, 512, "linear", 2.0),
        (0.5, 4096, "none", 0.5),
    ],
)
def test_scaling_rules_give_the_papers_rates(base, batch, rule, expected):
    assert scaled_learning_rate(base, batch, rule) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("batch", "rule", "message"),
    [(0, "linear", "at least 1. Received: 0"), (8, "log", "linear, sqrt, none. Received: 'log'")],
)
def test_wrong_scaling_is_refused(batch, rule, message):
    with pytest.raises(ValueError, match=message):
        scaled_learning_rate(1.0, batch, rule)


def values(schedule, steps):
    return [float(schedule(step)) for step in steps]


@pytest.mark.parametrize("final", [0.0, 0.001, 1 / 3])
@pytest.mark.parametrize("peak", [4.8, 0.03, 0.1])
def test_cosine_is_exact_at_its_corners(peak, final):
    schedule = WarmupSchedule(peak, total_steps=1000, warmup_steps=97, final_fraction=final)
    end = float(np.float32(peak) * np.float32(final))
    assert values(schedule, [0, 97, 1000, 1001, 10**6]) == [
        0.0,
        float(np.float32(peak)),
        end,
        end,
        end,
    ]


def test_cosine_equals_its_formula_at_every_step():
    schedule = WarmupSchedule(
        2.0, total_steps=50, warmup_steps=10, warmup_start=0.3, final_fraction=0.01
    )
    expected = [0.3 + 1.7 * s / 10 for s in range(10)]
    expected += [0.02 + 1.98 * (1 + math.cos(math.pi * (s - 10) / 40)) / 2 for s in range(10, 51)]
    np.testing.assert_allclose(values(schedule, range(51)), expected, rtol=1e-5, atol=1e-7)


def test_cosine_equals_keras():
    theirs = keras.optimizers.schedules.CosineDecay(0.0, 40, 0.1, warmup_target=1.5, warmup_steps=8)
    ours = WarmupSchedule(1.5, total_steps=48, warmup_steps=8, final_fraction=0.1)
    steps = np.arange(60)
    np.testing.assert_allclose(values(ours, steps), values(theirs, steps), rtol=1e-5)


def test_no_warmup_starts_at_the_peak():
    assert float(WarmupSchedule(0.7, total_steps=10)(0)) == float(np.float32(0.7))


def test_cosine_from_the_start_is_supcontrasts():
    # lr 0.5, 1000 epochs, 10 of warm-up from 0.01 to the cosine's value at epoch 10: 0.49988
    schedule = WarmupSchedule(
        0.5, total_steps=1000, warmup_steps=10, warmup_start=0.01, final_fraction=1e-3,
        decay_from_start=True,
    )  # fmt: skip
    floor = 0.5 * 0.1**3

    def cosine(epoch):
        return floor + (0.5 - floor) * (1 + math.cos(math.pi * epoch / 1000)) / 2

    expected = [0.01, (0.01 + cosine(10)) / 2, cosine(10), cosine(500), floor]
    np.testing.assert_allclose(values(schedule, [0, 5, 10, 500, 1000]), expected, rtol=1e-5)
    assert expected[2] == pytest.approx(0.49988, abs=1e-5)


def test_steps_decay_at_their_boundaries():
    schedule = WarmupSchedule(
        5.0, total_steps=100, warmup_steps=2, decay="step", decay_steps=(60, 75, 90), decay_rate=0.2
    )
    expected = [0.0, 2.5, 5.0, 5.0, 1.0, 1.0, 0.2, 0.04, 0.04, 0.04]
    steps = [0, 1, 2, 59, 60, 74, 75, 90, 100, 500]
    np.testing.assert_allclose(values(schedule, steps), expected, rtol=1e-6)


def test_exponential_and_its_staircase():
    smooth = WarmupSchedule(
        1.0, total_steps=20, decay="exponential", decay_rate=0.5, decay_steps=(4,)
    )
    np.testing.assert_allclose(
        values(smooth, [0, 2, 4, 20, 99]), [1, 0.5**0.5, 0.5, 0.5**5, 0.5**5], rtol=1e-6
    )
    stairs = WarmupSchedule(
        1.0, total_steps=20, decay="exponential", decay_rate=0.5, decay_steps=(4,), hold_steps=4
    )
    np.testing.assert_allclose(values(stairs, [0, 3, 4, 7, 8]), [1, 1, 0.5, 0.5, 0.25], rtol=1e-6)


def test_held_cosine_moves_once_per_epoch():
    held = WarmupSchedule(1.0, total_steps=12, hold_steps=4)
    smooth = WarmupSchedule(1.0, total_steps=12)
    assert values(held, range(12)) == values(smooth, [s // 4 * 4 for s in range(12)])
    assert values(held, [12, 13]) == [0.0, 0.0]


def test_constant_stays():
    schedule = WarmupSchedule(0.3, total_steps=10, warmup_steps=3, decay="constant")
    np.testing.assert_allclose(
        values(schedule, [0, 1, 3, 10, 99]), [0, 0.1, 0.3, 0.3, 0.3], rtol=1e-6
    )


def test_a_run_that_is_all_warmup_reaches_the_peak():
    schedule = WarmupSchedule(1.0, total_steps=5, warmup_steps=5)
    np.testing.assert_allclose(values(schedule, [0, 4, 5]), [0.0, 0.8, 1.0])


@pytest.mark.parametrize(
    "options",
    [
        {"decay": "cosine", "final_fraction": 0.1, "hold_steps": 3, "decay_from_start": True},
        {"decay": "step", "decay_steps": (4, 8), "decay_rate": 0.3},
        {"decay": "exponential", "decay_steps": (3,), "warmup_start": 0.2},
    ],
)
def test_config_round_trip(options):
    schedule = WarmupSchedule(0.9, total_steps=12, warmup_steps=2, name="named", **options)
    data = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(data)
    assert again.get_config() == schedule.get_config()
    assert values(again, range(15)) == values(schedule, range(15))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "linear"}, "cosine, step, exponential, constant. Received: 'linear'"),
        ({"warmup_steps": 11}, "between 0 and total_steps"),
        ({"warmup_steps": -1}, "between 0 and total_steps"),
        ({"hold_steps": 0}, "at least 1"),
        ({"decay": "exponential"}, "one number. Received: "),
        ({"decay": "step", "decay_steps": (5, 5)}, r"must rise. Received: \[5, 5\]"),
        ({"decay": "step", "decay_from_start": True}, "option of cosine"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WarmupSchedule(1.0, total_steps=10, **options)


def test_make_schedule_scales_the_peak():
    schedule = make_schedule(0.3, batch_size=512, total_steps=10, warmup_steps=2, decay="constant")
    np.testing.assert_allclose(values(schedule, [1, 2]), [0.3, 0.6], rtol=1e-6)
