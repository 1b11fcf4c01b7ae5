"""The methods: one file each, and the table that ``--method`` chooses from."""

from tfcontrast.methods.base import Method
from tfcontrast.methods.byol import BYOL, BYOLConfig
from tfcontrast.methods.densecl import DenseCL, DenseCLConfig
from tfcontrast.methods.moco import MoCo, MoCoConfig
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.projection import ProjectionConfig, make_projector
from tfcontrast.methods.simclr import SimCLR, SimCLRConfig
from tfcontrast.methods.supcon import SupCon, SupConConfig
from tfcontrast.methods.supervised import Supervised, SupervisedConfig

METHODS: dict[str, type[Method]] = {
    "byol": BYOL,
    "densecl": DenseCL,
    "moco": MoCo,
    "simclr": SimCLR,
    "supcon": SupCon,
    "supervised": Supervised,
}

__all__ = [
    "BYOL",
    "METHODS",
    "BYOLConfig",
    "DenseCL",
    "DenseCLConfig",
    "Method",
    "MoCo",
    "MoCoConfig",
    "Plan",
    "ProjectionConfig",
    "SimCLR",
    "SimCLRConfig",
    "SupCon",
    "SupConConfig",
    "Supervised",
    "SupervisedConfig",
    "make_projector",
]
