"""Every option of a run, with its help and its bounds: frozen dataclasses, standard library only.

The dataclasses are the truth; ``flags.py`` derives the command line from them. An option's name is
unique over all groups.
"""

from tfcontrast.config.config import Config, MethodConfig
from tfcontrast.config.digits import DIGITS_DEFAULTS
from tfcontrast.config.encoder import ModelConfig, foreign_options
from tfcontrast.config.groups import (
    GROUPS,
    AugmentConfig,
    DataConfig,
    EvalConfig,
    RunConfig,
    StrategyConfig,
    TrainConfig,
)
from tfcontrast.config.optimization import OptimConfig
from tfcontrast.config.option import (
    TYPE_NAMES,
    check_options,
    is_optional,
    option,
    option_type,
)

__all__ = [
    "DIGITS_DEFAULTS",
    "GROUPS",
    "TYPE_NAMES",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "StrategyConfig",
    "TrainConfig",
    "check_options",
    "foreign_options",
    "is_optional",
    "option",
    "option_type",
]
