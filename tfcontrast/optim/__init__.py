"""Optimizers that are exact on any number of replicas, variable roles and schedules."""

from tfcontrast.optim.adaptive import LAMB, Adam, AdamW, RMSprop
from tfcontrast.optim.base import SummedOptimizer
from tfcontrast.optim.factory import OPTIMIZERS, make_optimizer
from tfcontrast.optim.groups import Group
from tfcontrast.optim.lars import LARS, LARS_VARIANTS
from tfcontrast.optim.roles import ROLES, variable_roles
from tfcontrast.optim.schedules import (
    DECAYS,
    SCALING_RULES,
    WarmupSchedule,
    make_schedule,
    scaled_learning_rate,
)
from tfcontrast.optim.sgd import SGD
from tfcontrast.optim.skipping import SkippingOptimizer

__all__ = [
    "DECAYS",
    "LAMB",
    "LARS",
    "LARS_VARIANTS",
    "OPTIMIZERS",
    "ROLES",
    "SCALING_RULES",
    "SGD",
    "Adam",
    "AdamW",
    "Group",
    "RMSprop",
    "SkippingOptimizer",
    "SummedOptimizer",
    "WarmupSchedule",
    "make_optimizer",
    "make_schedule",
    "scaled_learning_rate",
    "variable_roles",
]
