"""DenseCL: Dense Contrastive Learning for Self-Supervised Visual Pre-Training.

Wang et al., 2020, arXiv:2011.09157.

The figure: MoCo v2, and beside its projector a dense one, which maps every location of the
backbone's last feature map. Each location of the query's map takes the location of the key's map
with the most similar *backbone* features; its dense projection must be closer to that location's
than to the rows of a second queue, which are older images' dense keys averaged over all locations.
The loss mixes both.

Deviations: as in MoCo; the heads start as PyTorch starts linear layers, where the released code
draws them by He's rule.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.config import option
from tfcontrast.errors import UserError
from tfcontrast.methods import queue_contrast, shared_options
from tfcontrast.methods.base import Method
from tfcontrast.methods.moco import DIGITS_DEFAULTS, LINEAR_DEFAULTS, PRETRAIN_DEFAULTS
from tfcontrast.methods.momentum import SlowCopies, clone
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.queue_contrast import QueueContrastConfig
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS
from tfcontrast.models import Perceptron, VisionTransformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenseCLConfig(QueueContrastConfig):
    """DenseCL's options; the defaults are the paper's, and MoCo v2's where they share one."""

    temperature: float = shared_options.temperature(0.2)
    num_proj_layers: int = shared_options.num_proj_layers(2)
    dense_weight: float = option(
        0.5, "Share of the dense loss; the rest is the loss of whole images.", low=0, high=1
    )
    dense_start_step: int = option(
        0,
        "First step with the dense loss; dense_weight is 0 before (1000 in a released hook).",
        low=0,
    )

    # The released code (WXinlong/DenseCL) on ImageNet: MoCo v2's optimizer and views, cosine.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {
            **PRETRAIN_DEFAULTS,
            "augmentation": "moco_v2",
            "learning_rate_schedule": "cosine",
            "decay_epochs": "",
        },
        "linear_eval": LINEAR_DEFAULTS,
        "finetune": FINETUNE_DEFAULTS,
    }
    DIGITS: ClassVar[Mapping[str, Any]] = DIGITS_DEFAULTS


class DenseCL(Method):
    """DenseCL as a Keras model; see the module's docstring.

    Args:
        backbone: has ``endpoints(images, training)`` with ``group4``, a map [B, S, S, D], and
            ``features``.
        config: its options.
        plan: the numbers of the run.
        num_classes: classes of the linear probe.
        global_bn: unused: the heads have no batch norm.

    Raises:
        UserError: the backbone has no feature map, or a queue holds less than a batch.
    """

    Config = DenseCLConfig
    metric_names = (
        "loss",
        "global_loss",
        "dense_loss",
        "contrastive_accuracy",
        "dense_accuracy",
        "queue_age",
        "dense_queue_age",
        "feature_std",
        "ema_decay",
    )

    def __init__(
        self,
        backbone: keras.Model,
        config: DenseCLConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        if isinstance(backbone, VisionTransformer) or not hasattr(backbone, "endpoints"):
            raise UserError(
                "--method=densecl needs a backbone with feature maps, --backbone=resnet. Received: "
                f"{type(backbone).__name__}"
            )
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or DenseCLConfig()
        self.projector = self.make_projector(self.config, global_bn=global_bn)
        self.dense_projector = queue_contrast.make_head(self.config, "dense_projector")
        self.target_backbone = clone(backbone, "target_backbone")
        self.target_projector = clone(self.projector, "target_projector")
        self.target_dense_projector = clone(self.dense_projector, "target_dense_projector")
        self._slow = SlowCopies(
            [
                (backbone, self.target_backbone),
                (self.projector, self.target_projector),
                (self.dense_projector, self.target_dense_projector),
            ],
            self.config,
            self.plan,
        )
        self.queue = queue_contrast.make_queue(self.config, self.plan, 1, "queue")
        self.dense_queue = queue_contrast.make_queue(self.config, self.plan, 1, "dense_queue")

    @classmethod
    def make_projector(cls, config: DenseCLConfig, *, global_bn: bool = True) -> Perceptron:
        """The projector of whole images: dense layers without batch norm."""
        del global_bn
        return queue_contrast.make_head(config, "projector")

    def initialize(self) -> None:
        """The key networks start as copies."""
        self._slow.start()

    def untrained_layers(self) -> Sequence[keras.Layer]:
        """The key networks."""
        return self._slow.layers

    def stuck_loss(self, batch_size: int) -> float | None:
        """The value when a key is as near as all rows of its queue: log(K + 1), of both losses."""
        return math.log(self.config.queue_size + 1)

    def targets(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """The second views' keys [B, d], backbone maps [B, S^2, D] and dense keys [B, S^2, d]."""

        def encode(images: tf.Tensor) -> Any:
            return _encode(
                (self.target_backbone, self.target_projector, self.target_dense_projector),
                images,
                training,
            )

        encoded = queue_contrast.encode_keys(
            encode,
            views[1],
            config=self.config,
            plan=self.plan,
            step=self.current_step(),
        )
        return {
            "keys": encoded["embeddings"],
            "key_map": encoded["map"],
            "key_grid": encoded["grid"],
        }

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """The first view to features [B, D], its map [B, S^2, D], queries and dense queries."""
        networks = (self.backbone, self.projector, self.dense_projector)
        encoded = _encode(networks, views[0], training)
        return {
            "features": encoded["features"],
            "queries": encoded["embeddings"],
            "query_map": encoded["map"],
            "query_grid": encoded["grid"],
        }

    def dense_weight(self, step: tf.Tensor) -> tf.Tensor:
        """The dense loss's share at this step, float32 scalar."""
        return tf.where(step < self.config.dense_start_step, 0.0, self.config.dense_weight)

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Equation 3: (1 - weight) times MoCo's loss and weight times the dense one."""
        temperature = self.config.temperature
        matches = losses.match_locations(outputs["query_map"], outputs["key_map"])
        rows = losses.dense_rows(outputs["query_grid"], outputs["key_grid"], matches)
        dense_loss, dense_accuracy = queue_contrast.contrast(*rows, self.dense_queue, temperature)
        global_loss, accuracy = queue_contrast.contrast(
            outputs["queries"], outputs["keys"], self.queue, temperature
        )
        weight = self.dense_weight(outputs["step"])
        return {
            "loss": (1 - weight) * global_loss + weight * dense_loss,
            "global_loss": global_loss,
            "dense_loss": dense_loss,
            "contrastive_accuracy": accuracy,
            "dense_accuracy": dense_accuracy,
            "queue_age": self.queue.age(),
            "dense_queue_age": self.dense_queue.age(),
            "feature_std": losses.feature_std(outputs["features"]),
            "ema_decay": self._slow.decay(outputs["step"]),
        }

    def after_update(self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]) -> None:
        """The key networks follow; keys and dense keys, averaged over locations, are pushed."""
        self._slow.follow(outputs)
        queue_contrast.push_keys(self.queue, outputs["keys"], outputs["taken"])
        pooled = tf.reduce_mean(outputs["key_grid"], axis=1)
        queue_contrast.push_keys(self.dense_queue, pooled, outputs["taken"])


def _encode(networks: tuple[Any, Any, Any], images: tf.Tensor, training: bool) -> dict[str, Any]:
    """Images to features, embeddings, and a row for every location of map and dense grid."""
    backbone, projector, dense_projector = networks
    ends = backbone.endpoints(images, training)
    count, height, width, channels = ends["group4"].shape
    rows = tf.reshape(ends["group4"], [-1, channels])
    locations = [-1 if count is None else count, height * width]
    grid = dense_projector(rows, training=training)
    return {
        "features": ends["features"],
        "embeddings": projector(ends["features"], training=training),
        "map": tf.reshape(rows, [*locations, channels]),
        "grid": tf.reshape(grid, [*locations, grid.shape[-1]]),
    }
