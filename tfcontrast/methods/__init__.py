"""The methods: one file each, and the table that ``--method`` chooses from."""

from tfcontrast.methods.base import Method
from tfcontrast.methods.byol import BYOL, BYOLConfig
from tfcontrast.methods.deepcluster import DeepCluster, DeepClusterConfig
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.projection import ProjectionConfig, make_projector
from tfcontrast.methods.simclr import SimCLR, SimCLRConfig
from tfcontrast.methods.supcon import SupCon, SupConConfig
from tfcontrast.methods.supervised import Supervised, SupervisedConfig

METHODS: dict[str, type[Method]] = {
    "byol": BYOL,
    "deepcluster": DeepCluster,
    "simclr": SimCLR,
    "supcon": SupCon,
    "supervised": Supervised,
}

__all__ = [
    "BYOL",
    "METHODS",
    "BYOLConfig",
    "DeepCluster",
    "DeepClusterConfig",
    "Method",
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
