"""The methods: one file each, and the table that ``--method`` chooses from."""

from tfcontrast.methods.barlow_twins import BarlowTwins, BarlowTwinsConfig
from tfcontrast.methods.base import Method
from tfcontrast.methods.byol import BYOL, BYOLConfig
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.projection import ProjectionConfig, make_projector
from tfcontrast.methods.simclr import SimCLR, SimCLRConfig
from tfcontrast.methods.simsiam import SimSiam, SimSiamConfig
from tfcontrast.methods.supcon import SupCon, SupConConfig
from tfcontrast.methods.supervised import Supervised, SupervisedConfig
from tfcontrast.methods.vicreg import VICReg, VICRegConfig

METHODS: dict[str, type[Method]] = {
    "barlow_twins": BarlowTwins,
    "byol": BYOL,
    "simclr": SimCLR,
    "simsiam": SimSiam,
    "supcon": SupCon,
    "supervised": Supervised,
    "vicreg": VICReg,
}

__all__ = [
    "BYOL",
    "METHODS",
    "BYOLConfig",
    "BarlowTwins",
    "BarlowTwinsConfig",
    "Method",
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
    "VICReg",
    "VICRegConfig",
    "make_projector",
]
