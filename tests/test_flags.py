"""The command line: one flag an option, what is refused and how, --help, and the flagfile."""

import dataclasses
import re

import pytest
from absl import flags as absl_flags

from tfcontrast import flags
from tfcontrast.augment import RECIPES
from tfcontrast.config import (
    DIGITS_DEFAULTS,
    GROUPS,
    Config,
    foreign_options,
    is_optional,
    option_type,
)
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS
from tfcontrast.train import options

GENERAL = {field.name: field for cls in GROUPS.values() for field in dataclasses.fields(cls)}
OWN = {field.name: field for cls in METHODS.values() for field in dataclasses.fields(cls.Config)}


def parse(*words):
    return flags.parse(["run", *words])


def refusal(*words):
    with pytest.raises(UserError) as info:
        parse(*words)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_flags_and_options_are_the_same_names_and_types():
    values = absl_flags.FlagValues()
    flags.define(values)
    assert set(values) == {**GENERAL, **OWN}.keys()
    parsers = {
        bool: absl_flags.BooleanParser,
        int: absl_flags.IntegerParser,
        float: absl_flags.FloatParser,
        str: (absl_flags.EnumParser, absl_flags.ArgumentParser),
    }
    for name, field in {**GENERAL, **OWN}.items():
        flag = values[name]
        assert isinstance(flag.parser, parsers[option_type(field)]), name
        assert flag.default == (field.default if name in GENERAL else None), name
        assert flag.help.endswith(field.metadata["help"]), name
        if isinstance(flag.parser, absl_flags.EnumParser):
            table = {"method": METHODS, "augmentation": RECIPES}.get(name)
            accepted = sorted(table) if table else field.metadata["choices"]
            assert list(flag.parser.enum_values) == list(accepted), name


@pytest.mark.parametrize(
    ("words", "group", "name", "value"),
    [
        (["--seed=7"], "run", "seed", 7),
        (["--seed", "7"], "run", "seed", 7),
        (["-seed=7"], "run", "seed", 7),
        (["--use_blur"], "augment", "use_blur", True),
        (["--nouse_blur"], "augment", "use_blur", False),
        (["--use_blur=false"], "augment", "use_blur", False),
        (["--noglobal_bn"], "model", "global_bn", False),
        (["--learning_rate=1e-3"], "optim", "learning_rate", 1e-3),
        (["--learning_rate=1"], "optim", "learning_rate", 1.0),
        (["--dataset=folder:/a b=c"], "data", "dataset", "folder:/a b=c"),
        (["--model_dir=x", "--model_dir="], "run", "model_dir", ""),
        (["--supcon_variant=in"], "method", "supcon_variant", "in"),
        (["--method=supervised", "--label_smoothing=0.1"], "method", "label_smoothing", 0.1),
    ],
)
def test_a_flag_reaches_its_option(words, group, name, value):
    config = parse(*words)
    found = getattr(getattr(config, group), name)
    assert found == value
    assert type(found) is type(value)


def test_without_flags_the_main_job_is_meant():
    config = parse()
    assert (config.run.method, config.run.train_mode, config.data.dataset) == (
        "supcon",
        "pretrain",
        "digits",
    )
    assert isinstance(config.method, METHODS["supcon"].Config)


def test_precedence_general_method_digits_flagfile_command_line(tmp_path):
    recipe = tmp_path / "recipe.flags"
    recipe.write_text("# a recipe\n\n--train_batch_size=32\n--learning_rate=0.25\n")
    found = parse("--method=simclr", "--dataset=mnist").train.train_batch_size
    assert found == GENERAL["train_batch_size"].default
    found = parse("--dataset=mnist").train.train_batch_size
    assert found == METHODS["supcon"].Config.DEFAULTS["pretrain"]["train_batch_size"]
    found = parse().train.train_batch_size
    assert found == DIGITS_DEFAULTS["pretrain"]["train_batch_size"]
    config = parse(f"--flagfile={recipe}", "--train_batch_size=16")
    assert (config.train.train_batch_size, config.optim.learning_rate) == (16, 0.25)
    config = parse("--train_batch_size=16", f"--flagfile={recipe}")
    assert config.train.train_batch_size == 32, "the later one wins"


def test_a_flagfile_may_name_another(tmp_path):
    base, top = tmp_path / "base.flags", tmp_path / "top.flags"
    base.write_text("--seed=1\n--knn_k=3\n")
    top.write_text(f"--flagfile={base}\n--seed=2\n")
    config = parse(f"--flagfile={top}")
    assert (config.run.seed, config.evaluation.knn_k) == (2, 3)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--method=simclrr"],
            f"--method must be one of {', '.join(sorted(METHODS))}. Received: 'simclrr'",
        ),
        (["--mode=trian"], "--mode must be one of train, eval, .* Received: 'trian'"),
        (["--augmentation=x"], "--augmentation must be one of .*simclr_v1.* Received: 'x'"),
        (["--seed=x"], "--seed must be a whole number. Received: 'x'"),
        (["--seed=1.5"], "--seed must be a whole number. Received: '1.5'"),
        (["--seed=1e3"], "--seed must be a whole number. Received: '1e3'"),
        (["--seed="], "--seed must be a whole number. Received: ''"),
        (["--seed=-1"], "--seed must be at least 0. Received: -1"),
        (["--seed=4294967296"], "--seed must be at most 4294967295. Received: 4294967296"),
        (["--learning_rate=fast"], "--learning_rate must be a number. Received: 'fast'"),
        (["--learning_rate=nan"], "--learning_rate must be finite. Received: nan"),
        (["--learning_rate=inf"], "--learning_rate must be finite. Received: inf"),
        (["--use_blur=maybe"], "--use_blur must be true or false. Received: 'maybe'"),
        (["--nouse_blur=1"], "--nouse_blur=1 does not take an argument"),
        (["--resnet_depth=51"], "--resnet_depth must be one of 10, 18, .* Received: 51"),
        (["--resnet_depth=x"], "--resnet_depth must be one of 10, 18, .* Received: 'x'"),
        (["--temperature=0"], "--temperature must be at least 0.0001. Received: 0.0"),
        (["--temperature=hot"], "--temperature must be a number. Received: 'hot'"),
        (["--label_fraction=0"], "--label_fraction must be at least 1e-06. Received: 0.0"),
        (["--train_batch_size=0"], "--train_batch_size must be at least 1. Received: 0"),
        (["--model_dir=a\nb"], "--model_dir must be one line .* Received: 'a.b'"),
        (["--sede=1"], r"unknown flag --sede, did you mean --seed\?; --help lists all flags"),
        (["--completely_unknown"], "unknown flag --completely_unknown; --help lists all flags"),
        (["--seed"], "--seed needs a value: --seed=VALUE"),
        (["stray"], "'stray' is not a flag; options look like --train_mode=finetune"),
        (["--seed=1", "two"], "'two' is not a flag"),
        (["--", "--seed=1"], "'--seed=1' is not a flag"),
        (["--download", "false"], "'false' is not a flag"),
        (
            ["--method=simclr", "--supcon_variant=in"],
            "--supcon_variant is not an option of --method=simclr; it belongs to supcon",
        ),
        (
            ["--method=supervised", "--temperature=0.1"],
            "--temperature is not an option of --method=supervised; it belongs to "
            ".*simclr, .*supcon",
        ),
        (["--train_mode=linear_eval"], "--train_mode=linear_eval needs --checkpoint"),
        (["--train_mode=finetune"], "--train_mode=finetune needs --checkpoint"),
        (["--mode=eval"], "--mode=eval needs --checkpoint or --model_dir"),
        (["--mode=export"], "--mode=export needs --checkpoint or --model_dir"),
        (
            ["--patch_size=8"],
            "--patch_size=8 is not an option of --backbone=resnet; it belongs to vit_tiny, ",
        ),
        (
            ["--backbone=vit_base", "--stem=cifar"],
            "--stem=cifar is not an option of --backbone=vit_base; it belongs to resnet$",
        ),
        (["--checkpoint=x"], "--checkpoint is for linear_eval, .* Received: --checkpoint=x"),
    ],
)
def test_bad_words_are_refused_by_name_with_what_is_accepted(words, expected):
    assert re.match(expected, refusal(*words).replace("\\n", "."))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "--flagfile cannot be opened: .*No such file.*recipe"),
        (b"--nosuch=1\n", "unknown flag --nosuch;"),
        (b"--seed=x\n", "--seed must be a whole number. Received: 'x'"),
        (b"seed=1\n", "'seed=1' is not a flag"),
        (b"\xff\xfe\x00", "--flagfile must name a text file"),
        (b"--supcon_variant=in\n--method=simclr\n", "--supcon_variant is not an option"),
    ],
)
def test_a_bad_flagfile(tmp_path, content, expected):
    recipe = tmp_path / "recipe.flags"
    if content is not None:
        recipe.write_bytes(content)
    assert re.match(expected, refusal(f"--flagfile={recipe}"))


def test_a_flagfile_that_is_a_folder_or_has_no_name(tmp_path):
    assert refusal(f"--flagfile={tmp_path}").startswith("--flagfile cannot be opened: ")
    assert "--flagfile" in refusal("--flagfile=")
    assert "--flagfile" in refusal("--flagfile")


@pytest.mark.parametrize("word", ["--help", "-h", "-help", "--helpfull", "--helpshort"])
def test_help_wins_over_everything(word):
    assert parse("--seed=x", word) is None


def test_help_lists_every_option_with_text_values_and_defaults():
    text = flags.help_text()
    flowing = " ".join(text.split())
    for name, field in {**GENERAL, **OWN}.items():
        shown = f"  --[no]{name}\n" if option_type(field) is bool else f"  --{name}="
        assert f"\n{shown}" in text, name
        assert " ".join(field.metadata["help"].split()) in flowing, name
    for choice in (*METHODS, *RECIPES):
        assert choice in text
    titles = [line for line in text.splitlines()[3:] if line and not line.startswith(" ")]
    assert len(titles) == len(GROUPS) + 1 + len(METHODS) + 1
    assert all(len(line) <= 100 for line in text.splitlines())
    assert text.isascii()


def test_help_names_the_methods_defaults_that_differ(monkeypatch):
    three = {name: METHODS[name] for name in ("simclr", "supcon", "supervised")}
    monkeypatch.setattr(flags, "METHODS", three)
    monkeypatch.setattr(options, "METHODS", three)
    flowing = " ".join(flags.help_text().split())
    assert "before learning_rate_scaling. Default: 0.3; supcon 0.4; supervised 0.1." in flowing
    assert "Layers of the nonlinear projector. Default: 2 (simclr, supcon)." in flowing
    assert "Default: true (simclr); false (supcon)." in flowing
    assert "jitter. Default: the recipe's." in flowing
    assert "_[<train_mode>]" not in flowing
    assert "linear_eval augmentation=crop_flip optimizer=rmsprop learning_rate=0.05" in flowing
    assert f"image_size={DIGITS_DEFAULTS['pretrain']['image_size']}" in flowing


def other(field):
    """A value that is neither the default nor refused."""
    kind, meta = option_type(field), field.metadata
    if field.name == "method":
        return "simclr"
    if field.name in ("mode", "train_mode", "checkpoint"):
        return field.default  # these ask for a checkpoint
    if field.name == "clip_tensor_norm":
        return field.default  # excludes clip_norm
    if field.name in {"backbone"} | foreign_options("resnet"):
        return field.default  # a vision transformer has none of a ResNet's
    if field.name == "augmentation":
        return "identity"
    if meta["choices"]:
        return meta["choices"][-1]
    if kind is bool:
        return not field.default
    if kind is str:
        return "5.5" if field.name == "decay_epochs" else "a b=c #d, 'é' \"--seed=1\" \\ $X"
    low, high = meta["low"], meta["high"]
    if kind is int:
        return int(low) + 3 if high is None or low + 3 <= high else int(high)
    return 0.1 + 0.2 if low <= 0.3 else 1 / 3 + low


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_flagfile_repeats_the_config_with_every_option_changed(tmp_path, method):
    parts = {
        group: cls(**{field.name: other(field) for field in dataclasses.fields(cls)})
        for group, cls in GROUPS.items()
    }
    parts["run"] = dataclasses.replace(parts["run"], method=method)
    cls = METHODS[method].Config
    config = Config(**parts, method=cls(**{f.name: other(f) for f in dataclasses.fields(cls)}))
    config.validate()
    file = tmp_path / "flags.txt"
    file.write_text(flags.to_flagfile(config), encoding="utf-8")
    assert parse(f"--flagfile={file}") == config


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--method=simclr", "--dataset=cifar10"],
        ["--method=supervised", "--nolineareval_while_pretraining", "--use_blur=false"],
        ["--learning_rate=0.1", "--model_dir=", "--data_dir=/a b", "--crop_area_min=0.2"],
        ["--backbone=vit_small", "--num_heads=12", "--patch_size=8", "--drop_path_rate=0.1"],
        ["--backbone=vit_base", "--position_embedding=sincos", "--dataset=imagenet2012"],
    ],
)
def test_the_flagfile_repeats_a_parsed_config(tmp_path, words):
    config = parse(*words)
    text = flags.to_flagfile(config)
    file = tmp_path / "flags.txt"
    file.write_text(text)
    assert parse(f"--flagfile={file}") == config
    unset = [name for name, value in config.to_dict().items() if value is None]
    assert all(is_optional(GENERAL[name]) for name in unset)
    lines = [line.partition("=")[0].removeprefix("--") for line in text.splitlines()]
    assert sorted(lines + unset) == sorted(config.to_dict())
