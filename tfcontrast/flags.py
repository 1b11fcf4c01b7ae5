"""The command line, derived from the config dataclasses; ``train/options.py`` completes it."""

import dataclasses
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from absl import flags

from tfcontrast.augment import RECIPES
from tfcontrast.config import (
    DIGITS_DEFAULTS,
    GROUPS,
    TYPE_NAMES,
    Config,
    is_optional,
    option_type,
)
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS
from tfcontrast.train.options import make_config, method_fields

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
_HELP_WIDTH = 96


def define(flag_values: flags.FlagValues) -> None:
    """Defines every option of every group and method on ``flag_values``."""
    for cls in GROUPS.values():
        for field in dataclasses.fields(cls):
            _define_one(field, field.default, flag_values)
    for by_method in method_fields().values():
        _define_one(next(iter(by_method.values())), None, flag_values)


def _choices(field: dataclasses.Field[Any]) -> tuple[Any, ...] | None:
    """The values that an option accepts; None when they cannot be listed."""
    tables: dict[str, dict[str, Any]] = {"method": {**METHODS}, "augmentation": {**RECIPES}}
    if field.name in tables:
        return tuple(sorted(tables[field.name]))
    return field.metadata["choices"]


def _define_one(field: dataclasses.Field[Any], default: Any, flag_values: flags.FlagValues) -> None:
    kind, choices = option_type(field), _choices(field)
    name, text = field.name, field.metadata["help"]
    if choices and kind is str:
        flags.DEFINE_enum(name, default, choices, text, flag_values=flag_values)
        return
    defines: dict[type, Any] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        str: flags.DEFINE_string,
    }
    defines[kind](name, default, text, flag_values=flag_values)


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
    if {"--flagfile=", "-flagfile="} & set(argv):
        raise UserError("--flagfile needs a file. Received: an empty name")
    flag_values = flags.FlagValues()  # type: ignore[no-untyped-call]  # absl is not typed
    define(flag_values)
    try:
        stray = flag_values(list(argv))[1:]
    except UnicodeDecodeError as error:
        raise UserError("--flagfile must name a text file. Received: one of other bytes") from error
    except (flags.Error, ValueError) as error:
        raise UserError(_explain(str(error))) from error
    if stray:
        raise UserError(f"{stray[0]!r} is not a flag; options look like --train_mode=finetune")
    return make_config(
        {name: flag_values[name].value for name in flag_values if flag_values[name].present}
    )


def _explain(message: str) -> str:
    """Says absl's message in this package's way: flag, accepted, received."""
    message = " ".join(message.removeprefix("ERROR:: ").split())
    bad_value = re.match(r"flag --(\w+)=(.*?): ", message)
    if bad_value:
        name, value = bad_value.groups()
        field = _all_fields()[name]
        choices = _choices(field)
        wanted = TYPE_NAMES[option_type(field)]
        if choices:
            wanted = f"one of {', '.join(str(choice) for choice in choices)}"
        return f"--{name} must be {wanted}. Received: {value!r}"
    unknown = re.match(r"Unknown command line flag '(.*?)'(?:\. Did you mean: (.*) \?)?$", message)
    if unknown:
        name, close = unknown.groups()
        hint = f", did you mean --{close.replace(' or ', ' or --')}?" if close else ""
        return f"unknown flag --{name}{hint}; --help lists all flags"
    message = re.sub("^Missing value for flag (.*)$", r"\1 needs a value: \1=VALUE", message)
    return message.replace("Unable to open flagfile:", "--flagfile cannot be opened:")


def _all_fields() -> dict[str, dataclasses.Field[Any]]:
    """Every option by name; of an option that several methods share, the first method's."""
    general = {f.name: f for cls in GROUPS.values() for f in dataclasses.fields(cls)}
    own = {name: next(iter(by_method.values())) for name, by_method in method_fields().items()}
    return general | own


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
        "A later value wins over an earlier one, in a flagfile too. MODEL_DIR/flags.txt repeats a "
        "run.",
    ]
    for group, cls in GROUPS.items():
        lines += ["", f"{_TITLES[group]}"]
        for field in dataclasses.fields(cls):
            lines += _help_lines(field, _defaults_by_method(field))
    lines += ["", "Options of the methods; one that the chosen method does not have is refused"]
    for by_method in method_fields().values():
        holders: dict[str, list[str]] = {}
        for method, field in by_method.items():
            holders.setdefault(_words(field), []).append(method)
        text = "; ".join(f"{value} ({', '.join(names)})" for value, names in holders.items())
        lines += _help_lines(next(iter(by_method.values())), text)
    tables = {f"of {method}": cls.Config.DEFAULTS for method, cls in METHODS.items()}
    tables["with --dataset=digits, which win over those above"] = DIGITS_DEFAULTS
    for title, by_mode in tables.items():
        lines += ["", f"Defaults {title}"]
        for train_mode, values in by_mode.items():
            words = " ".join(f"{name}={_word(value)}" for name, value in values.items())
            lines += _wrap(f"{train_mode:<13}{words or 'the general ones'}", 2, 15)
    return "\n".join(lines)


def _wrap(text: str, first: int, others: int) -> list[str]:
    return textwrap.wrap(
        text,
        _HELP_WIDTH,
        initial_indent=" " * first,
        subsequent_indent=" " * others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _help_lines(field: dataclasses.Field[Any], default: str) -> list[str]:
    kind, choices = option_type(field), _choices(field)
    values = {bool: "", int: "=INTEGER", float: "=NUMBER", str: "=TEXT"}[kind]
    if choices:
        values = f"={'|'.join(str(choice) for choice in choices)}"
    name = f"--[no]{field.name}" if kind is bool else f"--{field.name}"
    text = f"{field.metadata['help']} Default: {default}."
    if choices and len(name + values) > _HELP_WIDTH:
        text += f" One of {', '.join(str(choice) for choice in choices)}."
        values = "=NAME"
    return [f"  {name}{values}", *_wrap(text, 6, 6)]


def _defaults_by_method(field: dataclasses.Field[Any]) -> str:
    found = {method: cls.Config.DEFAULTS["pretrain"] for method, cls in METHODS.items()}
    differing = [
        f"{method} {_word(values[field.name])}"
        for method, values in found.items()
        if field.name in values
    ]
    return "; ".join([_words(field), *differing])


def _words(field: dataclasses.Field[Any]) -> str:
    return "the recipe's" if is_optional(field) else _word(field.default)


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).removesuffix(".0") or "empty"
