"""Networks and their state: ResNets, batch norm, projector, queues, banks, k-means, slow copies."""

from tfcontrast.models.batch_norm import BatchNorm
from tfcontrast.models.ema import copy_weights, cosine_ema_decay, update_ema
from tfcontrast.models.heads import Projector
from tfcontrast.models.kmeans import Clusters, kmeans
from tfcontrast.models.memory_bank import MemoryBank
from tfcontrast.models.multi_crop import forward_views
from tfcontrast.models.normalized_dense import Prototypes, WeightNormDense
from tfcontrast.models.perceptron import Perceptron
from tfcontrast.models.queue import Queue
from tfcontrast.models.resnet import ResNet
from tfcontrast.models.still_statistics import still_statistics
from tfcontrast.models.torchvision import (
    load_torchvision_state,
    torchvision_names,
    torchvision_state,
)
from tfcontrast.models.vit import VisionTransformer
from tfcontrast.models.whitening import whiten

__all__ = [
    "BatchNorm",
    "Clusters",
    "MemoryBank",
    "Perceptron",
    "Projector",
    "Prototypes",
    "Queue",
    "ResNet",
    "VisionTransformer",
    "WeightNormDense",
    "copy_weights",
    "cosine_ema_decay",
    "forward_views",
    "kmeans",
    "load_torchvision_state",
    "still_statistics",
    "torchvision_names",
    "torchvision_state",
    "update_ema",
    "whiten",
]
