import dataclasses
import math

import pytest

from tfcontrast import config as config_lib
from tfcontrast.config import GROUPS, check_options, option
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS

CLASSES = {**GROUPS, **{name: cls.Config for name, cls in METHODS.items()}}
OPTIONS = [
    pytest.param(cls, field, id=f"{group}.{field.name}")
    for group, cls in CLASSES.items()
    for field in dataclasses.fields(cls)
]
STANDINS = {bool: "true", int: 1.5, float: "1", str: 1}


def refused(cls, field, value):
    with pytest.raises(UserError) as info:
        check_options(cls(**{field.name: value}))
    message = str(info.value)
    assert message.startswith(f"--{field.name} must be ")
    assert message.endswith(f"Received: {value!r}")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("cls", "field"), OPTIONS)
def test_an_option_accepts_its_default_and_says_what_it_is(cls, field):
    check_options(cls())
    text = field.metadata["help"]
    assert text.endswith(".")
    kind = config_lib.option_type(field)
    assert kind in config_lib.TYPE_NAMES
    assert config_lib.is_optional(field) == (field.default is None)
    assert field.default is None or type(field.default) is kind


@pytest.mark.parametrize(("cls", "field"), OPTIONS)
def test_an_option_refuses_what_lies_outside(cls, field):
    kind, meta = config_lib.option_type(field), field.metadata
    step = 1 if kind is int else 1e-6
    for bound, outside in ((meta["low"], -step), (meta["high"], step)):
        if bound is not None:
            check_options(cls(**{field.name: kind(bound)}))
            refused(cls, field, kind(bound + max(1.0, abs(bound)) * outside))
    for choice in meta["choices"] or ():
        check_options(cls(**{field.name: choice}))
    if meta["choices"]:
        message = refused(cls, field, 7 if kind is int else "no_such_choice")
        assert all(str(choice) in message for choice in meta["choices"])
    if kind is int and not meta["choices"]:
        assert meta["low"] is not None, "every count has a lower bound"


@pytest.mark.parametrize(("cls", "field"), OPTIONS)
def test_an_option_refuses_other_types(cls, field):
    kind = config_lib.option_type(field)
    refused(cls, field, STANDINS[kind])
    refused(cls, field, [])
    if kind is int:
        refused(cls, field, True)
    if not config_lib.is_optional(field):
        refused(cls, field, None)
    if kind is float:
        for value in (math.nan, math.inf, -math.inf):
            refused(cls, field, value)
    if kind is str and not field.metadata["choices"]:
        for value in (" a", "a ", "a\nb", "\n", " "):
            refused(cls, field, value)
        check_options(cls(**{field.name: "a b=c"}))


def test_a_whole_number_may_stand_for_a_float():
    check_options(config_lib.OptimConfig(learning_rate=1))


def test_a_low_and_high_bound_are_inclusive():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Narrow:
        share: float = option(0.5, "A share.", low=0.25, high=0.75)

    check_options(Narrow(share=0.25))
    check_options(Narrow(share=0.75))
    with pytest.raises(UserError, match=r"--share must be at least 0.25. Received: 0.2499"):
        check_options(Narrow(share=0.2499))
    with pytest.raises(UserError, match=r"--share must be at most 0.75. Received: 0.7501"):
        check_options(Narrow(share=0.7501))
