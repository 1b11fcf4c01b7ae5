"""What the embedded data set brings along."""

from collections.abc import Mapping
from typing import Any

# The embedded data set brings sizes that fit its 8x8 images and a laptop. They stand between a
# method's defaults, which are its paper's, and the command line; flags/digits/ holds the same
# values as files.
DIGITS_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "pretrain": {
        "augmentation": "digits",
        "image_size": 16,
        "holdout_fraction": 0.05,
        "resnet_depth": 10,
        "width_multiplier": 0.25,
        "proj_batch_norm": True,
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "warmup_epochs": 2.0,
        "weight_decay": 1e-4,
        "clip_norm": 1.0,
        "train_batch_size": 256,
        "train_epochs": 60,
        "checkpoint_epochs": 10,
        "knn_k": 20,
    },
    "linear_eval": {
        "augmentation": "digits",
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "warmup_epochs": 0.0,
        "weight_decay": 0.0,
        "learning_rate_schedule": "cosine",
        "train_batch_size": 128,
        "train_epochs": 20,
        "checkpoint_epochs": 10,
    },
    "finetune": {
        "augmentation": "digits",
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "warmup_epochs": 0.0,
        "weight_decay": 0.0,
        "train_batch_size": 64,
        "train_epochs": 20,
        "checkpoint_epochs": 10,
    },
}
