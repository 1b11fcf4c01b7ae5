"""From the options that a user gave to a run's whole config.

An option's value comes from the first of: the user (the command line, with its flagfiles), the
checkpoint that the run starts from (its data, encoder and projector), the embedded data set's
sizes, the method's own default for this train_mode, the dataclass.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from tfcontrast.config import (
    DIGITS_DEFAULTS,
    GROUPS,
    Config,
    ModelConfig,
    RunConfig,
    StrategyConfig,
    foreign_options,
)
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS, Method
from tfcontrast.train.checkpoints import find_checkpoint

_MEASURES = ("eval", "export")
# What a run that starts from a checkpoint takes over from it, beside the method's own options; the
# encoder's options cannot be overridden.
_FREE_OF_WEIGHTS = frozenset(
    [
        "precision",
        "global_bn",
        "batch_norm_splits",
        "drop_path_rate",
        "freeze_patch_embedding",
        "remat",
    ]
)
_ENCODER = frozenset(field.name for field in dataclasses.fields(ModelConfig)) - _FREE_OF_WEIGHTS
_INHERITED = (_ENCODER | _FREE_OF_WEIGHTS) | {
    "dataset",
    "data_dir",
    "image_size",
    "eval_split",
    "max_bad_images",
}
# What even a run that only measures a checkpoint decides for itself.
_OF_THIS_RUN = frozenset(
    ["mode", "model_dir", "checkpoint", "allow_missing", "framework_logs"]
    + [field.name for field in dataclasses.fields(StrategyConfig)]
)


def method_fields() -> dict[str, dict[str, dataclasses.Field[Any]]]:
    """The methods' own options: option name to method name to field."""
    found: dict[str, dict[str, dataclasses.Field[Any]]] = {}
    for method, cls in METHODS.items():
        for field in dataclasses.fields(cls.Config):
            found.setdefault(field.name, {})[method] = field
    return found


def make_config(given: Mapping[str, Any]) -> Config:
    """Completes the options that the user gave.

    Args:
        given: option name to value; every name is one of the config's or of a method's.

    Raises:
        UserError: an option of another method, one that contradicts the checkpoint, a checkpoint
            that is not there, or a value that is not accepted.
    """
    given = dict(given)
    measures = given.get("mode") in _MEASURES
    inherited = _source_options(given)
    # A checkpoint says what these came to.
    if inherited and given.get("stem") == "auto":
        del given["stem"]
    if inherited and given.get("position_image_size") == 0:
        del given["position_image_size"]
    if inherited and measures and given.get("image_size") == 0:
        del given["image_size"]
    start = {"method": RunConfig.method, "train_mode": "pretrain", **inherited}
    if not measures:
        start["train_mode"] = "pretrain"
    method, train_mode = (given.get(name, start[name]) for name in ("method", "train_mode"))
    method_class = _look_up(method)
    if train_mode not in method_class.Config.DEFAULTS:
        accepted = ", ".join(method_class.Config.DEFAULTS)
        raise UserError(f"--train_mode must be one of {accepted}. Received: {train_mode!r}")
    own = {field.name for field in dataclasses.fields(method_class.Config)}
    _check_given(given, method, own, inherited, measures)
    kept = inherited.keys() - _OF_THIS_RUN if measures else _INHERITED | own
    taken = {name: value for name, value in inherited.items() if name in kept}
    dataset = given.get("dataset", inherited.get("dataset", "digits"))
    defaults = {
        **method_class.Config.DEFAULTS[train_mode],
        **(_digits(method_class, train_mode) if dataset == "digits" else {}),
    }
    # Methods' and digits' defaults are a ResNet's; another network has no use for some.
    backbone = {**defaults, **taken, **given}.get("backbone", ModelConfig.backbone)
    foreign = foreign_options(backbone)
    config = _fill_config(
        method_class,
        {
            **{name: value for name, value in defaults.items() if name not in foreign},
            **taken,
            **given,
            "method": method,
            "train_mode": train_mode,
        },
    )
    config.validate()
    return config


def _digits(method_class: type[Method], train_mode: str) -> dict[str, Any]:
    """What the embedded data set brings along."""
    own = method_class.Config.DIGITS if train_mode == "pretrain" else {}
    return {**DIGITS_DEFAULTS[train_mode], **own}


def _look_up(method: Any) -> type[Method]:
    if not isinstance(method, str) or method not in METHODS:
        raise UserError(
            f"--method must be one of {', '.join(sorted(METHODS))}. Received: {method!r}"
        )
    return METHODS[method]


def _source_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the checkpoint that the run starts from; empty without one."""
    mode, train_mode = given.get("mode"), given.get("train_mode", "pretrain")
    checkpoint = given.get("checkpoint", "")
    if mode in _MEASURES:
        source = checkpoint or given.get("model_dir", "")
        if not source:
            raise UserError(
                f"--mode={mode} needs --checkpoint or --model_dir, the folder of a trained run"
            )
        return _checkpoint_options(source, "--checkpoint" if checkpoint else "--model_dir")
    if train_mode == "pretrain":
        if checkpoint:
            raise UserError(
                "--checkpoint is for linear_eval, finetune, eval and export; --model_dir resumes "
                f"pretraining. Received: --checkpoint={checkpoint} with --train_mode=pretrain"
            )
        return {}
    if not checkpoint:
        raise UserError(
            f"--train_mode={train_mode} needs --checkpoint, the folder of a pretrained run"
        )
    return _checkpoint_options(checkpoint)


def _checkpoint_options(path: str, flag: str = "--checkpoint") -> dict[str, Any]:
    """The options that a checkpoint was made with, checked: they come from a file."""
    folder, manifest = find_checkpoint(path, flag=flag)
    options: dict[str, Any] = manifest["config"]
    try:
        _fill_config(_look_up(options.get("method")), options).validate()
    except UserError as error:
        raise UserError(
            f"{folder} is damaged or of another version of tfcontrast: {error}"
        ) from error
    return options


def _check_given(
    given: Mapping[str, Any],
    method: str,
    own: set[str],
    inherited: Mapping[str, Any],
    measures: bool,
) -> None:
    """Refuses what the method does not have and what the checkpoint contradicts."""
    for name, by_method in method_fields().items():
        if name in given and name not in own:
            raise UserError(
                f"--{name} is not an option of --method={method}; it belongs to "
                f"{', '.join(by_method)}"
            )
    fixed = _ENCODER | own | ({"method", "train_mode"} if measures else set())
    for name in sorted(fixed & inherited.keys() & given.keys()):
        if given[name] != inherited[name]:
            raise UserError(
                f"--{name}={given[name]} contradicts the checkpoint, which was made with "
                f"--{name}={inherited[name]}"
            )


def _fill_config(method_class: type[Method], values: Mapping[str, Any]) -> Config:
    parts = {group: _fill(cls, values) for group, cls in GROUPS.items()}
    return Config(**parts, method=_fill(method_class.Config, values))


def _fill(cls: type, values: Mapping[str, Any]) -> Any:
    return cls(**{f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values})
