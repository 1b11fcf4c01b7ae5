import dataclasses
import json

import pytest

from tfcontrast import config as config_lib
from tfcontrast.config import GROUPS, Config, MethodConfig
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS


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


def test_one_way_of_clipping():
    for options in ({"clip_norm": 1.0}, {"clip_tensor_norm": 1.0}):
        Config(optim=config_lib.OptimConfig(**options)).validate()
    both = config_lib.OptimConfig(clip_norm=1.5, clip_tensor_norm=2.0)
    with pytest.raises(UserError, match=r"--clip_norm and --clip_tensor_norm .*: 1.5 and 2$"):
        Config(optim=both).validate()


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
        ' "augment_on": "auto",',
    ]


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().run.seed = 1
    assert isinstance(Config().method, MethodConfig)
