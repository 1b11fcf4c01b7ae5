"""MoCo: Momentum Contrast for Unsupervised Visual Representation Learning.

He et al., 2019, arXiv:1911.05722; MoCo v2 (Chen et al., 2020, arXiv:2003.04297) is a recipe of this
method: two layers in the projector, temperature 0.2, stronger views, a cosine.

The figure: the first view of every image passes backbone and projector (the query), the second one
slow copies of both (the key). A query must be closer to its own key than to the rows of a queue,
which are the keys of earlier steps; afterwards this step's keys replace the oldest rows. Batch norm
takes its statistics of parts of the batch (the paper's GPUs; ``--batch_norm_splits`` here), and the
keys are encoded in another order, so that the statistics do not give them away.

Deviations: the copies follow after the update instead of before the next key, with the same
numbers. The queue's size need not be a multiple of the batch.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.config import option
from tfcontrast.methods import queue_contrast
from tfcontrast.methods.base import Method
from tfcontrast.methods.momentum import SlowCopies, clone
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.projection import encode_each_view
from tfcontrast.methods.queue_contrast import QueueContrastConfig
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS, LINEAR_EVAL_DEFAULTS
from tfcontrast.models import Perceptron, forward_views

# The released code (facebookresearch/moco): SGD 0.03 x B/256 on 8 GPUs, x 0.1 at 120 and 160 of 200
# epochs, weight decay 1e-4 on all parameters.
PRETRAIN_DEFAULTS: Mapping[str, Any] = {
    "augmentation": "moco_v1",
    "input_normalization": "imagenet",
    "zero_init_last_gamma": False,
    "batch_norm_splits": 8,
    "optimizer": "sgd",
    "learning_rate": 0.03,
    "warmup_epochs": 0.0,
    "learning_rate_schedule": "step",
    "decay_epochs": "120,160",
    "weight_decay": 1e-4,
    "decay_all": True,
    "train_batch_size": 256,
    "train_epochs": 200,
}
# The same code's classifier: SGD 30, x 0.1 at 60 and 80 of 100 epochs.
LINEAR_DEFAULTS: Mapping[str, Any] = {
    **LINEAR_EVAL_DEFAULTS,
    "nesterov": False,
    "learning_rate": 30.0,
    "learning_rate_schedule": "step",
    "decay_epochs": "60,80",
    "train_batch_size": 256,
    "train_epochs": 100,
}
# For the digits: a short run needs a queue of few epochs and a copy that moves.
DIGITS_DEFAULTS: Mapping[str, Any] = {
    "input_normalization": "none",
    "learning_rate_schedule": "cosine",
    "decay_epochs": "",
    "decay_all": False,
    "temperature": 0.2,
    "queue_size": 1024,
    "num_proj_layers": 2,
    "ema_decay": 0.97,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCoConfig(QueueContrastConfig):
    """MoCo's options; the defaults are those of the first paper."""

    symmetric_loss: str = option(
        "none",
        "none: first views are queries, second views keys; sum or mean: both ways, and the keys of "
        "both views go into the queue.",
        choices=("none", "sum", "mean"),
    )

    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": PRETRAIN_DEFAULTS,
        "linear_eval": LINEAR_DEFAULTS,
        "finetune": FINETUNE_DEFAULTS,
    }
    DIGITS: ClassVar[Mapping[str, Any]] = DIGITS_DEFAULTS


class MoCo(Method):
    """MoCo v1 and v2 as a Keras model; see the module's docstring."""

    Config = MoCoConfig
    metric_names = (
        "loss",
        "contrastive_accuracy",
        "queue_age",
        "embedding_std",
        "feature_std",
        "ema_decay",
    )

    def __init__(
        self,
        backbone: keras.Model,
        config: MoCoConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or MoCoConfig()
        self._directions = 1 if self.config.symmetric_loss == "none" else 2
        self.projector = self.make_projector(self.config, global_bn=global_bn)
        self.target_backbone = clone(backbone, "target_backbone")
        self.target_projector = clone(self.projector, "target_projector")
        self._slow = SlowCopies(
            [(backbone, self.target_backbone), (self.projector, self.target_projector)],
            self.config,
            self.plan,
        )
        self.queue = queue_contrast.make_queue(self.config, self.plan, self._directions, "queue")

    @classmethod
    def make_projector(cls, config: MoCoConfig, *, global_bn: bool = True) -> Perceptron:
        """Dense layers without batch norm: one in v1, two in v2."""
        del global_bn
        return queue_contrast.make_head(config, "projector")

    def initialize(self) -> None:
        """The key networks start as copies."""
        self._slow.start()

    def untrained_layers(self) -> Sequence[keras.Layer]:
        """The key networks."""
        return self._slow.layers

    def stuck_loss(self, batch_size: int) -> float | None:
        """The value when a key is as near as all rows of the queue: log(K + 1)."""
        return self._scale * math.log(self.config.queue_size + 1)

    @property
    def _scale(self) -> float:
        return 2.0 if self.config.symmetric_loss == "sum" else 1.0

    def targets(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """The keys of the second views, [B, d]; then, if symmetric, of the first ones: [2B, d]."""

        def encode(images: tf.Tensor) -> Any:
            features = forward_views(self.target_backbone, [images], training)
            return self.target_projector(features, training=training)

        keys = [
            queue_contrast.encode_keys(
                encode, view, config=self.config, plan=self.plan, step=self.current_step()
            )
            for view in views[::-1][: self._directions]
        ]
        return {"keys": tf.concat(keys, 0)}

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """The first view [B, H, W, 3] (if symmetric each one) to features and queries [B, d]."""
        views = views[: self._directions]
        # Each view alone: batch norm's groups are parts of one view, as on the paper's GPUs.
        seed = self.branch_seed(training)
        encoded = encode_each_view(self.backbone, self.projector, views, training, seed=seed)
        return {"features": encoded["features"], "queries": encoded["embeddings"]}

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Equation 1: every query's key among the queue."""
        loss, accuracy = queue_contrast.contrast(
            outputs["queries"], outputs["keys"], self.queue, self.config.temperature
        )
        return {
            "loss": self._scale * loss,
            "contrastive_accuracy": accuracy,
            "queue_age": self.queue.age(),
            "embedding_std": losses.feature_std(outputs["queries"]),
            "feature_std": losses.feature_std(outputs["features"]),
            "ema_decay": self._slow.decay(outputs["step"]),
        }

    def after_update(self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]) -> None:
        """The key networks follow, and the keys join the queue."""
        self._slow.follow(outputs)
        queue_contrast.push_keys(
            self.queue, outputs["keys"], outputs["taken"], keys_per_image=self._directions
        )
