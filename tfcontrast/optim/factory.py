"""The table of optimizers, and the one function that methods and drivers call."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfcontrast.optim.adaptive import LAMB, Adam, AdamW, RMSprop
from tfcontrast.optim.base import Schedule, SummedOptimizer
from tfcontrast.optim.lars import LARS
from tfcontrast.optim.roles import variable_roles
from tfcontrast.optim.sgd import SGD

OPTIMIZERS = {
    "lars": LARS,
    "sgd": SGD,
    "rmsprop": RMSprop,
    "adam": Adam,
    "adamw": AdamW,
    "lamb": LAMB,
}

_MOMENTS = ("beta_1", "beta_2", "epsilon")
_OWN_OPTIONS = {
    "lars": ("momentum", "nesterov", "lars_variant", "trust_coefficient", "classic_momentum"),
    "sgd": ("momentum", "nesterov"),
    "rmsprop": ("momentum", "rho", "epsilon", "centered"),
    "adam": _MOMENTS,
    "adamw": _MOMENTS,
    "lamb": _MOMENTS,
}


def make_optimizer(
    name: str,
    *,
    learning_rate: float | Schedule,
    weight_decay: float | Schedule = 0.0,
    momentum: float | None = None,
    nesterov: bool | None = None,
    lars_variant: str | None = None,
    trust_coefficient: float | None = None,
    exclude_from_decay: Sequence[str] | None = None,
    exclude_from_adaptation: Sequence[str] | None = None,
    freeze_steps: Mapping[str, int] | None = None,
    clip_norm: float | None = None,
    clip_tensor_norm: float | None = None,
    model: keras.Layer | None = None,
    roles: Mapping[int, str] | None = None,
    **own: Any,
) -> SummedOptimizer:
    """Makes an optimizer by name; with ``model`` it is built too. Call it in the strategy's scope.

    Args:
        name: a key of ``OPTIMIZERS``.
        learning_rate: a number or a schedule.
        weight_decay: a number or a schedule; coupled (L2) for sgd, lars, rmsprop and adam,
            decoupled for adamw and lamb.
        momentum: of sgd, lars and rmsprop. This and the next three serve a common set of settings:
            optimizers that do not have them ignore them, and None is the optimizer's default.
        nesterov: of sgd and lars.
        lars_variant: of lars, one of ``LARS_VARIANTS``.
        trust_coefficient: of lars.
        exclude_from_decay: roles that are not decayed; None is the optimizer's own choice: biases
            and norms for lars (not its variant ``larc``) and lamb, nothing for the others.
        exclude_from_adaptation: the same for the layer-wise ratio of lars and lamb.
        freeze_steps: role -> first steps in which its variables stand still.
        clip_norm: bound of the norm of all gradients together.
        clip_tensor_norm: bound of the norm of each variable's gradient.
        model: a built model; sets its roles and builds the slots of its trainable variables.
        roles: roles of the model's variables, when they are not just ``variable_roles(model)``.
        **own: what only the named optimizer has: ``classic_momentum`` (lars); ``rho``, ``epsilon``,
            ``centered`` (rmsprop); ``beta_1``, ``beta_2``, ``epsilon`` (adam, adamw, lamb).

    Returns:
        The optimizer.

    Raises:
        ValueError: an unknown name, or an option that the named optimizer does not have.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}. Received: {name!r}")
    foreign = sorted(set(own) - set(_OWN_OPTIONS[name]))
    if foreign:
        raise ValueError(
            f"The optimizer {name} has the options {', '.join(_OWN_OPTIONS[name])}. "
            f"Received: {', '.join(foreign)}"
        )
    if exclude_from_adaptation is not None and name not in ("lars", "lamb"):
        raise ValueError(
            "exclude_from_adaptation is an option of lars and lamb. "
            f"Received it for the optimizer {name}"
        )
    common = {
        "momentum": momentum,
        "nesterov": nesterov,
        "lars_variant": lars_variant,
        "trust_coefficient": trust_coefficient,
    }
    given = own | {
        option: value
        for option, value in common.items()
        if value is not None and option in _OWN_OPTIONS[name]
    }
    if "lars_variant" in given:
        given["variant"] = given.pop("lars_variant")
    if exclude_from_decay is not None:
        given["exclude_from_decay"] = exclude_from_decay
    if exclude_from_adaptation is not None:
        given["exclude_from_adaptation"] = exclude_from_adaptation
    optimizer = OPTIMIZERS[name](
        learning_rate,
        weight_decay=weight_decay,
        freeze_steps=freeze_steps,
        clip_norm=clip_norm,
        clip_tensor_norm=clip_tensor_norm,
        **given,
    )
    if model is not None:
        optimizer.set_roles(variable_roles(model) if roles is None else roles)
        optimizer.build(model.trainable_variables)
    return optimizer
