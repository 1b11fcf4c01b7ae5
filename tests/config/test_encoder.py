import dataclasses

import pytest

from tfcontrast.config import Config, ModelConfig, foreign_options
from tfcontrast.errors import UserError
from tfcontrast.models.resnet import DEPTHS, OUTPUT_STRIDES, STEM_STRIDES
from tfcontrast.models.vit import SIZES
from tfcontrast.models.vit_block import INITIALIZATIONS
from tfcontrast.models.vit_embedding import POSITIONS


def test_the_choices_are_the_networks_own():
    fields = {f.name: f.metadata["choices"] for f in dataclasses.fields(ModelConfig)}
    assert set(fields["resnet_depth"]) == set(DEPTHS)
    assert set(fields["output_stride"]) == set(OUTPUT_STRIDES)
    assert set(fields["stem"]) == {"auto", *STEM_STRIDES}


def test_the_sizes_and_choices_are_the_vision_transformers_own():
    fields = {f.name: f.metadata["choices"] for f in dataclasses.fields(ModelConfig)}
    assert fields["backbone"] == ("resnet", *(f"vit_{size}" for size in SIZES))
    assert fields["position_embedding"] == POSITIONS
    assert fields["vit_initialization"] == INITIALIZATIONS


def test_every_option_of_the_encoder_is_one_networks_or_both():
    every = {field.name for field in dataclasses.fields(ModelConfig)}
    of_resnets, of_transformers = foreign_options("vit_tiny"), foreign_options("resnet")
    assert of_resnets | of_transformers < every
    assert not of_resnets & of_transformers
    both = every - of_resnets - of_transformers
    assert both == {"backbone", "input_normalization", "global_bn", "precision", "remat"}


def refusal(**options):
    with pytest.raises(UserError) as info:
        Config(model=ModelConfig(**options)).validate()
    return str(info.value)


def test_the_other_networks_options_are_refused_unless_they_are_as_by_default():
    default = ModelConfig()
    others = {
        "patch_size": 8,
        "num_heads": 12,
        "position_embedding": "sincos",
        "position_image_size": 32,
        "vit_initialization": "moco_v3",
        "freeze_patch_embedding": True,
        "drop_path_rate": 0.1,
    }
    assert others.keys() == foreign_options("resnet")
    for name, value in others.items():
        assert refusal(**{name: value}) == (
            f"--{name}={value} is not an option of --backbone=resnet; it belongs to vit_tiny, "
            "vit_small, vit_base"
        )
        Config(model=ModelConfig(**{name: getattr(default, name)})).validate()
        Config(model=ModelConfig(backbone="vit_small", **{name: value})).validate()
    for name, value in {"resnet_depth": 18, "stem": "cifar", "zero_init_last_gamma": False}.items():
        assert refusal(backbone="vit_tiny", **{name: value}) == (
            f"--{name}={value} is not an option of --backbone=vit_tiny; it belongs to resnet"
        )
        Config(model=ModelConfig(**{name: value})).validate()
    same = {name: getattr(default, name) for name in foreign_options("vit_tiny")}
    Config(model=ModelConfig(backbone="vit_tiny", **same)).validate()
