"""Networks: ResNets, their batch norm, the projector, torchvision's names for weights."""

from tfcontrast.models.batch_norm import BatchNorm
from tfcontrast.models.heads import Projector
from tfcontrast.models.resnet import ResNet
from tfcontrast.models.torchvision import (
    load_torchvision_state,
    torchvision_names,
    torchvision_state,
)

__all__ = [
    "BatchNorm",
    "Projector",
    "ResNet",
    "load_torchvision_state",
    "torchvision_names",
    "torchvision_state",
]
