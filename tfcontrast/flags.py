"""The command line, derived from the config dataclasses.

An option's value comes from the first of: the command line and the flagfiles on it (the later
wins), the checkpoint that the run starts from (its data, encoder and projector), the embedded data
set's sizes, the method's own default for this train_mode, the dataclass.
"""

import dataclasses
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from tfcontrast.augment import RECIPES
from tfcontrast.config import DIGITS_DEFAULTS, GROUPS, Config, ModelConfig
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS
from tfcontrast.train.checkpoints import find_checkpoint

_TITLES = {
    "run": "What to do",
    "data": "Data",
    "augment": "Views",
    "model": "Encoder",
    "optim": "Optimizer",
    "train": "Training",
    "evaluation": "Evaluation",
    "strategy": "Devices",
}
# What a run that starts from a checkpoint takes over from it; the encoder's options cannot be
# overridden.
_ENCODER = frozenset(field.name for field in dataclasses.fields(ModelConfig)) - {
    "precision",
    "global_bn",
}
_INHERITED = _ENCODER | {
    "precision",
    "global_bn",
    "dataset",
    "data_dir",
    "image_size",
    "eval_split",
    "max_bad_images",
}


def _kind(field: dataclasses.Field[Any]) -> type:
    """The option's type without its ``None``."""
    if typing.get_origin(field.type) in (typing.Union, types.UnionType):
        return next(kind for kind in typing.get_args(field.type) if kind is not type(None))
    return typing.cast(type, field.type)


def _method_fields() -> dict[str, dict[str, dataclasses.Field[Any]]]:
    """The methods' own options: option name to method name to field."""
    found: dict[str, dict[str, dataclasses.Field[Any]]] = {}
    for method, cls in METHODS.items():
        for field in dataclasses.fields(cls.Config):
            found.setdefault(field.name, {})[method] = field
    return found


def define(flag_values: flags.FlagValues) -> None:
    """Defines every option of every group and method on ``flag_values``."""
    for cls in GROUPS.values():
        for field in dataclasses.fields(cls):
            _define_one(field, field.default, flag_values)
    for by_method in _method_fields().values():
        _define_one(next(iter(by_method.values())), None, flag_values)


def _define_one(field: dataclasses.Field[Any], default: Any, flag_values: flags.FlagValues) -> None:
    kind, text = _kind(field), field.metadata["help"]
    if field.name == "method":
        flags.DEFINE_enum(field.name, default, sorted(METHODS), text, flag_values=flag_values)
    elif field.name == "augmentation":
        flags.DEFINE_enum(field.name, default, sorted(RECIPES), text, flag_values=flag_values)
    elif field.metadata["choices"]:
        flags.DEFINE_enum(
            field.name, default, field.metadata["choices"], text, flag_values=flag_values
        )
    else:
        defines: dict[type, Any] = {
            bool: flags.DEFINE_bool,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }
        defines[kind](field.name, default, text, flag_values=flag_values)


def parse(argv: Sequence[str]) -> Config | None:
    """Parses a command line.

    Args:
        argv: the program's name and its flags.

    Returns:
        The run's config, or None when help was asked for.

    Raises:
        UserError: an unknown flag, a stray word, a missing flagfile, or a value that is not
            accepted.
    """
    if {"--help", "-h", "-help", "--helpfull", "--helpshort"} & set(argv[1:]):
        return None
    flag_values = flags.FlagValues()  # type: ignore[no-untyped-call]  # absl is not typed
    define(flag_values)
    try:
        stray = flag_values(list(argv))[1:]
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error
    if stray:
        raise UserError(f"{stray[0]!r} is not a flag; options look like --train_mode=finetune")
    return to_config(flag_values, _source_options(flag_values))


def _source_options(flag_values: flags.FlagValues) -> dict[str, Any]:
    """The options of the checkpoint that the run starts from; empty without one."""
    train_mode, mode, checkpoint = (
        flag_values[name].value for name in ("train_mode", "mode", "checkpoint")
    )
    if mode in ("eval", "export"):
        source = checkpoint or flag_values["model_dir"].value
        if not source:
            raise UserError(
                f"--mode={mode} needs --checkpoint or --model_dir, the folder of a trained run"
            )
        return {**find_checkpoint(source)[1]["config"], "mode": mode}
    if train_mode == "pretrain":
        if checkpoint:
            raise UserError(
                "--checkpoint is for linear_eval, finetune, eval and export; --model_dir resumes "
                "pretraining"
            )
        return {}
    if not checkpoint:
        raise UserError(
            f"--train_mode={train_mode} needs --checkpoint, the folder of a pretrained run"
        )
    return dict(find_checkpoint(checkpoint)[1]["config"])


def to_config(flag_values: flags.FlagValues, inherited: Mapping[str, Any] | None = None) -> Config:
    """Turns parsed flags into the run's config.

    Args:
        flag_values: the flags, defined by :func:`define` and parsed.
        inherited: the options of the checkpoint that the run starts from, by name.

    Raises:
        UserError: a flag of another method, a flag that contradicts the checkpoint, or a value that
            is not accepted.
    """
    given = {name: flag_values[name].value for name in flag_values if flag_values[name].present}
    inherited = dict(inherited or {})
    method = str(given.get("method") or inherited.get("method") or flag_values["method"].value)
    measures = flag_values["mode"].value in ("eval", "export")
    train_mode = (
        given.get("train_mode", inherited.get("train_mode") if measures else None) or "pretrain"
    )
    method_class = METHODS[method]
    own = {field.name for field in dataclasses.fields(method_class.Config)}
    for name, by_method in _method_fields().items():
        if name in given and name not in own:
            raise UserError(
                f"--{name} is not an option of --method={method}; it belongs to "
                f"{', '.join(by_method)}"
            )
    taken = _taken_over(inherited, own)
    for name in sorted(taken.keys() & given.keys()):
        fixed = name in own or name in _ENCODER
        if fixed and given[name] != taken[name]:
            raise UserError(
                f"--{name}={given[name]} contradicts the checkpoint, which was made with "
                f"{taken[name]}"
            )
    dataset = given.get("dataset", taken.get("dataset", flag_values["dataset"].value))
    defaults = {
        **method_class.Config.DEFAULTS[train_mode],
        **(DIGITS_DEFAULTS[train_mode] if dataset == "digits" else {}),
        **(inherited if measures else taken),
        **{
            name: flag_values[name].value
            for name in ("mode", "model_dir", "checkpoint", "allow_missing")
        },
        **given,
        "method": method,
        "train_mode": train_mode,
    }
    parts = {group: _fill(cls, defaults) for group, cls in GROUPS.items()}
    config = Config(**parts, method=_fill(method_class.Config, defaults))
    config.validate()
    return config


def _taken_over(inherited: Mapping[str, Any], own: set[str]) -> dict[str, Any]:
    return {name: value for name, value in inherited.items() if name in _INHERITED or name in own}


def _fill(cls: type, values: Mapping[str, Any]) -> Any:
    return cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values})


def to_flagfile(config: Config) -> str:
    """The run's options as a flagfile: ``--flagfile`` of it repeats the run."""
    lines = []
    for name, value in config.to_dict().items():
        if isinstance(value, bool):
            lines.append(f"--{name}={str(value).lower()}")
        elif value is not None:
            lines.append(f"--{name}={value}")
    return "\n".join(lines) + "\n"


def help_text() -> str:
    """``--help``: the options by topic, with the defaults of the methods that differ."""
    lines = [
        "usage: python -m tfcontrast.run --method=METHOD [--flagfile=FILE] [--OPTION=VALUE ...]",
        "",
        f"methods: {', '.join(sorted(METHODS))}",
        f"recipes of --augmentation: {', '.join(sorted(RECIPES))}",
    ]
    for group, cls in GROUPS.items():
        lines += ["", f"{_TITLES[group]}:"]
        for field in dataclasses.fields(cls):
            lines += _help_lines(field, _words(field.default), _defaults_by_method(field.name))
    lines += [
        "",
        "Options of the methods (an option that the chosen method does not have is refused):",
    ]
    for by_method in _method_fields().values():
        by_default = " · ".join(
            f"{method} {_words(field.default)}" for method, field in by_method.items()
        )
        lines += _help_lines(next(iter(by_method.values())), by_default, "")
    return "\n".join(lines)


def _help_lines(field: dataclasses.Field[Any], default: str, by_method: str) -> list[str]:
    text = f"{field.metadata['help']} Default: {default}{by_method}."
    return [
        f"  --{field.name}",
        *textwrap.wrap(text, 92, initial_indent=" " * 6, subsequent_indent=" " * 6),
    ]


def _defaults_by_method(name: str) -> str:
    differing = [
        f"{method} {_words(cls.Config.DEFAULTS['pretrain'][name])}"
        for method, cls in METHODS.items()
        if name in cls.Config.DEFAULTS["pretrain"]
    ]
    return f" ({' · '.join(differing)})" if differing else ""


def _words(value: Any) -> str:
    if value is None:
        return "the recipe's"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if value != "" else "empty"
