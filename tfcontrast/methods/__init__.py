"""The methods: one file each, and the table that ``--method`` chooses from."""

from tfcontrast.methods.base import Method
from tfcontrast.methods.byol import BYOL, BYOLConfig
from tfcontrast.methods.deepcluster import DeepCluster, DeepClusterConfig
from tfcontrast.methods.deepcluster_v2 import DeepClusterV2, DeepClusterV2Config
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.projection import ProjectionConfig, make_projector
from tfcontrast.methods.simclr import SimCLR, SimCLRConfig
from tfcontrast.methods.supcon import SupCon, SupConConfig
from tfcontrast.methods.supervised import Supervised, SupervisedConfig
from tfcontrast.methods.swav import SwAV, SwAVConfig

METHODS: dict[str, type[Method]] = {
    "byol": BYOL,
    "deepcluster": DeepCluster,
    "deepcluster_v2": DeepClusterV2,
    "simclr": SimCLR,
    "supcon": SupCon,
    "supervised": Supervised,
    "swav": SwAV,
}

__all__ = [
    "BYOL",
    "METHODS",
    "BYOLConfig",
    "DeepCluster",
    "DeepClusterConfig",
    "DeepClusterV2",
    "DeepClusterV2Config",
    "Method",
    "Plan",
    "ProjectionConfig",
    "SimCLR",
    "SimCLRConfig",
    "SupCon",
    "SupConConfig",
    "Supervised",
    "SupervisedConfig",
    "SwAV",
    "SwAVConfig",
    "make_projector",
]
