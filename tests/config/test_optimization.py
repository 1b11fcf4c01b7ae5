import dataclasses

import pytest

from tfcontrast.config import Config, OptimConfig
from tfcontrast.errors import UserError
from tfcontrast.optim import DECAYS, LARS_VARIANTS, OPTIMIZERS, SCALING_RULES


def test_the_choices_are_the_optimizers_own():
    fields = {f.name: f.metadata["choices"] for f in dataclasses.fields(OptimConfig)}
    assert set(fields["optimizer"]) == set(OPTIMIZERS)
    assert set(fields["learning_rate_schedule"]) == set(DECAYS)
    assert set(fields["learning_rate_scaling"]) == set(SCALING_RULES)
    assert set(fields["lars_variant"]) == set(LARS_VARIANTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"final_weight_decay": 0.4, "weight_decay": 0.0}, "above 0 to start from. Received: 0.4"),
        ({"final_weight_decay": -0.5}, r"must be -1 \(constant\), or 0 or more. Received: -0.5"),
    ],
)
def test_a_weight_decay_that_goes_nowhere_is_refused(options, message):
    with pytest.raises(UserError, match=message):
        Config(optim=OptimConfig(**options)).validate()


def test_a_weight_decay_may_rise_or_fall_to_zero():
    for last in (-1.0, 0.0, 0.4):
        Config(optim=OptimConfig(weight_decay=0.04, final_weight_decay=last)).validate()
