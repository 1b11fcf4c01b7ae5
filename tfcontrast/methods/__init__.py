"""The methods: one file each, and the table that ``--method`` chooses from."""

from tfcontrast.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from tfcontrast.methods.base import Method
from tfcontrast.methods.byol import BYOL, BYOLConfig
from tfcontrast.methods.deepcluster import DeepCluster, DeepClusterConfig
from tfcontrast.methods.deepcluster_v2 import DeepClusterV2, DeepClusterV2Config
from tfcontrast.methods.densecl import DenseCL, DenseCLConfig
from tfcontrast.methods.dino import DINO, DINOConfig
from tfcontrast.methods.instdisc import InstDisc, InstDiscConfig
from tfcontrast.methods.moco import MoCo, MoCoConfig
from tfcontrast.methods.moco_v3 import MoCoV3, MoCoV3Config
from tfcontrast.methods.nnclr import NNCLR, NNCLRConfig
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.projection import ProjectionConfig, make_projector
from tfcontrast.methods.simclr import SimCLR, SimCLRConfig
from tfcontrast.methods.simsiam import SimSiam, SimSiamConfig
from tfcontrast.methods.supcon import SupCon, SupConConfig
from tfcontrast.methods.supervised import Supervised, SupervisedConfig
from tfcontrast.methods.swav import SwAV, SwAVConfig
from tfcontrast.methods.vicreg import VICReg, VICRegConfig

METHODS: dict[str, type[Method]] = {
    "barlow_twins": BarlowTwins,
    "byol": BYOL,
    "deepcluster": DeepCluster,
    "deepcluster_v2": DeepClusterV2,
    "moco_v3": MoCoV3,
    "dino": DINO,
    "instdisc": InstDisc,
    "nnclr": NNCLR,
    "densecl": DenseCL,
    "moco": MoCo,
    "simclr": SimCLR,
    "simsiam": SimSiam,
    "supcon": SupCon,
    "supervised": Supervised,
    "swav": SwAV,
    "vicreg": VICReg,
}

__all__ = [
    "BYOL",
    "DINO",
    "METHODS",
    "NNCLR",
    "BYOLConfig",
    "BarlowTwins",
    "BarlowTwinsConfig",
    "DINOConfig",
    "DeepCluster",
    "DeepClusterConfig",
    "DeepClusterV2",
    "DeepClusterV2Config",
    "DenseCL",
    "DenseCLConfig",
    "InstDisc",
    "InstDiscConfig",
    "Method",
    "MoCo",
    "MoCoConfig",
    "MoCoV3",
    "MoCoV3Config",
    "NNCLRConfig",
    "Plan",
    "ProjectionConfig",
    "SimCLR",
    "SimCLRConfig",
    "SimSiam",
    "SimSiamConfig",
    "SupCon",
    "SupConConfig",
    "Supervised",
    "SupervisedConfig",
    "SwAV",
    "SwAVConfig",
    "VICReg",
    "VICRegConfig",
    "make_projector",
]
