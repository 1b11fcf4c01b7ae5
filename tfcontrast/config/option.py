"""How an option is declared and checked: a dataclass field with its help and its bounds."""

import dataclasses
import math
import typing
from typing import Any

from tfcontrast.errors import UserError

TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def option(
    default: Any,
    text: str,
    *,
    choices: tuple[Any, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Declares a dataclass field with its help text, and the values that are accepted.

    Args:
        default: the value when nobody sets it; its type is the option's type. ``None`` needs an
            annotation.
        text: one or two sentences for ``--help``.
        choices: the accepted values.
        low: smallest accepted number.
        high: largest accepted number.
    """
    metadata = {"help": text, "choices": choices, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=metadata)


def option_type(field: dataclasses.Field[Any]) -> type:
    """An option's type, without its ``None``."""
    kinds = [kind for kind in typing.get_args(field.type) if kind is not type(None)]
    return kinds[0] if kinds else typing.cast(type, field.type)


def is_optional(field: dataclasses.Field[Any]) -> bool:
    """Whether an option may be ``None``: left to the recipe."""
    return type(None) in typing.get_args(field.type)


def check_options(config: Any) -> None:
    """Checks every field of a config dataclass against its declaration.

    Raises:
        UserError: the first value that is not accepted, with its flag's name.
    """
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), option_type(field)
        choices, low, high = (field.metadata[key] for key in ("choices", "low", "high"))
        if value is None and is_optional(field):
            continue
        # Checkpoints bring values from a file; a whole number may stand for a float, not a bool.
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise UserError(f"--{field.name} must be {TYPE_NAMES[kind]}. Received: {value!r}")
        if isinstance(value, str) and value and value.strip().splitlines() != [value]:
            raise UserError(
                f"--{field.name} must be one line without spaces around it. Received: {value!r}"
            )
        if choices is not None and value not in choices:
            accepted = ", ".join(str(choice) for choice in choices)
            raise UserError(f"--{field.name} must be one of {accepted}. Received: {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{field.name} must be finite. Received: {value}")
        if low is not None and value < low:
            raise UserError(f"--{field.name} must be at least {low}. Received: {value}")
        if high is not None and value > high:
            raise UserError(f"--{field.name} must be at most {high}. Received: {value}")
