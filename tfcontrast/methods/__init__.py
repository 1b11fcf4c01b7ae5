"""The methods: one file each, and the table that ``--method`` chooses from."""

from tfcontrast.methods.base import Method
from tfcontrast.methods.byol import BYOL, BYOLConfig
from tfcontrast.methods.deepcluster_v2 import DeepClusterV2, DeepClusterV2Config
from tfcontrast.methods.moco_v3 import MoCoV3, MoCoV3Config
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.projection import ProjectionConfig, make_projector
from tfcontrast.methods.simclr import SimCLR, SimCLRConfig
from tfcontrast.methods.supcon import SupCon, SupConConfig
from tfcontrast.methods.supervised import Supervised, SupervisedConfig
from tfcontrast.methods.swav import SwAV, SwAVConfig

METHODS: dict[str, type[Method]] = {
    "byol": BYOL,
    "moco_v3": MoCoV3,
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
    "DeepClusterV2",
    "DeepClusterV2Config",
    "Method",
    "MoCoV3",
    "MoCoV3Config",
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
