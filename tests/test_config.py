"""Every option: what its declaration accepts, and what the whole config refuses."""

import dataclasses
import json
import math

import pytest

from tfcontrast import config as config_lib
from tfcontrast.config import GROUPS, Config, MethodConfig, check_options, option
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS
from tfcontrast.models.resnet import DEPTHS, OUTPUT_STRIDES, STEM_STRIDES
from tfcontrast.optim import OPTIMIZERS

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


def test_names_are_unique_over_all_groups_and_every_method():
    general = [field.name for cls in GROUPS.values() for field in dataclasses.fields(cls)]
    assert len(general) == len(set(general))
    for cls in METHODS.values():
        assert not {field.name for field in dataclasses.fields(cls.Config)} & set(general)


def test_options_that_methods_share_have_one_type_and_one_text():
    kinds = {}
    for cls in METHODS.values():
        for field in dataclasses.fields(cls.Config):
            declared = (field.type, dict(field.metadata))
            assert kinds.setdefault(field.name, declared) == declared, field.name


def test_defaults_name_options_that_exist_and_accept_them():
    known = {f.name: cls for cls in GROUPS.values() for f in dataclasses.fields(cls)}
    tables = {name: (cls.Config, cls.Config.DEFAULTS) for name, cls in METHODS.items()}
    tables["digits"] = (METHODS["supcon"].Config, config_lib.DIGITS_DEFAULTS)
    for name, (own, table) in tables.items():
        assert set(table) == {"pretrain", "linear_eval", "finetune"}, name
        for values in table.values():
            for key, value in values.items():
                cls = known.get(key, own)
                field = {f.name: f for f in dataclasses.fields(cls)}[key]
                check_options(cls(**{key: value}))
                # A flagfile has no word for None, so a default may not stand in its way.
                assert not config_lib.is_optional(field), (name, key)


def test_the_choices_are_the_librarys_own():
    fields = {
        f.name: f.metadata["choices"] for cls in GROUPS.values() for f in dataclasses.fields(cls)
    }
    assert set(fields["resnet_depth"]) == set(DEPTHS)
    assert set(fields["output_stride"]) == set(OUTPUT_STRIDES)
    assert set(fields["stem"]) == {"auto", *STEM_STRIDES}
    assert set(fields["optimizer"]) == set(OPTIMIZERS)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        ("step", ""),
        ("step", "60,30"),
        ("step", "a"),
        ("step", "0,5"),
        ("step", "nan"),
        ("step", "10,inf"),
        ("step", "10,,20"),
        ("exponential", ""),
        ("exponential", "1,2"),
        ("exponential", "-1"),
        ("cosine", "a"),
        ("constant", "3,2"),
    ],
)
def test_decay_epochs_must_fit_the_schedule(schedule, text):
    optim = config_lib.OptimConfig(learning_rate_schedule=schedule, decay_epochs=text)
    with pytest.raises(UserError, match="--decay_epochs must be") as info:
        Config(optim=optim).validate()
    assert str(info.value).endswith(f"--learning_rate_schedule={schedule}. Received: {text!r}")


@pytest.mark.parametrize(
    ("schedule", "text"),
    [("step", "60,75,90"), ("step", "0.5"), ("exponential", "0.5"), ("cosine", "")],
)
def test_decay_epochs_that_fit(schedule, text):
    optim = config_lib.OptimConfig(learning_rate_schedule=schedule, decay_epochs=text)
    Config(optim=optim).validate()


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.4), (None, 0.05), (0.9, 0.2)])
def test_the_crop_area_must_not_be_empty(low, high):
    augment = config_lib.AugmentConfig(crop_area_min=low, crop_area_max=high)
    with pytest.raises(UserError, match="--crop_area_min must not exceed --crop_area_max"):
        Config(augment=augment).validate()


def test_validate_reaches_every_group_and_the_method():
    for group, cls in GROUPS.items():
        field = (
            next(f for f in dataclasses.fields(cls) if config_lib.option_type(f) is not str)
            if group != "run"
            else cls.__dataclass_fields__["seed"]
        )
        with pytest.raises(UserError, match=f"--{field.name} "):
            Config(**{group: cls(**{field.name: "wrong"})}).validate()
    own = METHODS["supcon"].Config(temperature=0.0)
    with pytest.raises(UserError, match="--temperature must be at least"):
        Config(method=own).validate()


def test_to_dict_is_flat_and_whole_and_json_holds_it_exactly():
    config = Config(
        optim=config_lib.OptimConfig(learning_rate=0.1 + 0.2),
        augment=config_lib.AugmentConfig(use_blur=False),
        method=METHODS["simclr"].Config(temperature=0.07),
    )
    flat = config.to_dict()
    expected = sum(len(dataclasses.fields(cls)) for cls in GROUPS.values())
    assert len(flat) == expected + len(dataclasses.fields(METHODS["simclr"].Config))
    assert (flat["learning_rate"], flat["use_blur"], flat["temperature"]) == (
        0.1 + 0.2,
        False,
        0.07,
    )
    assert json.loads(config.to_json()) == flat
    assert config.to_json().splitlines()[1:3] == [
        ' "allow_missing": "",',
        ' "augmentation": "simclr_v2",',
    ]


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().run.seed = 1
    assert isinstance(Config().method, MethodConfig)
