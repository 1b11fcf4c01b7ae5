"""MoCo v3: An Empirical Study of Training Self-Supervised Vision Transformers.

Chen, Xie and He, 2021, arXiv:2104.02057.

The figure: two views pass the network (backbone, projector, predictor), which gives the queries,
and slow copies of backbone and projector, which give the keys. The query of one view must find the
key of the other view among the keys of all images of the global batch; there is no queue. Both
directions are added. Every view passes by itself, so that batch norm sees one view at a time.

The heads of a ResNet are the defaults; a vision transformer's have ``num_proj_layers=3``,
``pred_batch_norm=true`` and ``temperature=0.2``.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfcontrast import distribute, losses
from tfcontrast.config import option
from tfcontrast.methods import shared_options
from tfcontrast.methods.base import Method
from tfcontrast.methods.momentum import MomentumConfig, SlowCopies, clone
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.projection import encode_each_view
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS, LINEAR_EVAL_DEFAULTS
from tfcontrast.models import Perceptron


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoCoV3Config(MomentumConfig):
    """MoCo v3's options; the defaults are the released code's for a ResNet-50 and 100 epochs."""

    temperature: float = shared_options.temperature(1.0)
    num_proj_layers: int = shared_options.num_proj_layers(2)
    proj_hidden_dim: int = shared_options.proj_hidden_dim(4096)
    proj_out_dim: int = shared_options.proj_out_dim(256)
    pred_hidden_dim: int = shared_options.pred_hidden_dim(4096)
    pred_batch_norm: bool = option(
        False, "Batch norm, without parameters, after the predictor (MoCo v3's transformers)."
    )
    ema_decay: float = shared_options.ema_decay(0.99)

    # The released recipe (moco-v3): LARS 0.6 x B/256, batch 4096, decay 1e-6, 10 epochs of warm-up.
    # Its ResNets crop from 0.2 of the area, see flags/imagenet/moco_v3.flags.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {
            "augmentation": "barlow_twins",
            "lars_variant": "byol",
            "learning_rate": 0.6,
            "weight_decay": 1e-6,
            "train_epochs": 100,
        },
        "linear_eval": {**LINEAR_EVAL_DEFAULTS, "nesterov": False, "train_batch_size": 1024},
        "finetune": FINETUNE_DEFAULTS,
    }
    # For the digits: a minute is too short for copies that hardly move.
    DIGITS: ClassVar[Mapping[str, Any]] = {
        "temperature": 0.2,
        "ema_decay": 0.97,
        "proj_hidden_dim": 256,
        "proj_out_dim": 64,
        "pred_hidden_dim": 256,
    }


class MoCoV3(Method):
    """MoCo v3 as a Keras model; see the module's docstring."""

    Config = MoCoV3Config
    takes_micro_batches = True
    metric_names = ("loss", "contrastive_accuracy", "feature_std", "ema_decay")

    def __init__(
        self,
        backbone: keras.Model,
        config: MoCoV3Config | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or MoCoV3Config()
        self.projector = self.make_projector(self.config, global_bn=global_bn)
        self.predictor = Perceptron(
            widths=(self.config.pred_hidden_dim, self.config.proj_out_dim),
            hidden_bias=False,
            output_bias=False,
            output_norm="plain" if self.config.pred_batch_norm else "none",
            global_bn=global_bn,
            name="predictor",
        )
        self.target_backbone = clone(backbone, "target_backbone")
        self.target_projector = clone(self.projector, "target_projector")
        # The released code takes the average before the key pass: one step later in the cosine.
        self._slow = SlowCopies(
            [(backbone, self.target_backbone), (self.projector, self.target_projector)],
            self.config,
            self.plan,
            offset=1,
        )

    @classmethod
    def make_projector(cls, config: MoCoV3Config, *, global_bn: bool = True) -> Perceptron:
        """The projector: layers without bias, batch norm after each, the last one's plain."""
        hidden = (config.proj_hidden_dim,) * (config.num_proj_layers - 1)
        return Perceptron(
            widths=(*hidden, config.proj_out_dim),
            hidden_bias=False,
            output_bias=False,
            output_norm="plain",
            global_bn=global_bn,
            name="projector",
        )

    def initialize(self) -> None:
        """The slow copies start as copies."""
        self._slow.start()

    def untrained_layers(self) -> Sequence[keras.Layer]:
        """The slow copies."""
        return self._slow.layers

    def targets(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """The slow copies' keys of both views, [2B, d]."""
        networks = (self.target_backbone, self.target_projector)
        return {"keys": encode_each_view(*networks, views, training)["embeddings"]}

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Two views [B, H, W, 3] to features [2B, D], embeddings and queries [2B, d]."""
        seed = self.branch_seed(training)
        encoded = encode_each_view(self.backbone, self.projector, views, training, seed=seed)
        embeddings = tf.split(encoded["embeddings"], len(views))
        queries = [self.predictor(rows, training=training) for rows in embeddings]
        return {**encoded, "queries": tf.concat(queries, 0)}

    def stuck_loss(self, batch_size: int) -> float | None:
        """The loss when every query is as near to any key: 4 T log B."""
        return 4 * self.config.temperature * math.log(batch_size)

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Algorithm 1: ctr(q1, k2) + ctr(q2, k1), local queries against every replica's keys."""
        q1, q2 = tf.split(outputs["queries"], 2)  # [B, d] each
        k1, k2 = tf.split(outputs["keys"], 2)
        everyone = distribute.gather(tf.stack([k1, k2], 1), differentiable=False)
        loss, accuracy = 0.0, 0.0
        for queries, keys, candidates in ((q1, k2, everyone[:, 1]), (q2, k1, everyone[:, 0])):
            where: dict[str, Any] = {
                "temperature": self.config.temperature,
                "candidates": candidates,
                "first_row": distribute.first_row(keys),
            }
            one_loss, hits = losses.in_batch_info_nce_with_accuracy(
                queries, keys, scale="twice_temperature", **where
            )
            loss, accuracy = loss + one_loss, accuracy + hits
        return {
            "loss": loss,
            "contrastive_accuracy": accuracy / 2,
            "feature_std": losses.feature_std(outputs["features"]),
            "ema_decay": self._slow.decay(outputs["step"]),
        }

    def after_update(self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]) -> None:
        """The slow copies follow the updated networks."""
        self._slow.follow(outputs)
