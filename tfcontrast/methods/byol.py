"""BYOL: Bootstrap Your Own Latent. Grill et al., 2020, arXiv:2006.07733.

The figure: two views pass the online network (backbone, projector, predictor) and the target
network (slow copies of backbone and projector). The online network's prediction from one view must
point where the target's projection of the other view points. There are no negatives; predictor and
slow copy keep the output from collapsing.

Deviation: the target starts as a copy of the online network; the released code draws it anew and
sees no difference.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.methods import shared_options
from tfcontrast.methods.base import Method
from tfcontrast.methods.momentum import MomentumConfig, SlowCopies, clone
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS, LINEAR_EVAL_DEFAULTS
from tfcontrast.models import Perceptron, forward_views


@dataclasses.dataclass(frozen=True, kw_only=True)
class BYOLConfig(MomentumConfig):
    """BYOL's options; the defaults are the paper's for 1000 epochs."""

    proj_hidden_dim: int = shared_options.proj_hidden_dim(4096)
    proj_out_dim: int = shared_options.proj_out_dim(256)
    pred_hidden_dim: int = shared_options.pred_hidden_dim(4096)

    # The released recipe for 1000 epochs (deepmind-research): LARS 0.2 x B/256, batch 4096, decay
    # 1.5e-6, 10 epochs of warm-up.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {
            "augmentation": "byol",
            "lars_variant": "byol",
            "learning_rate": 0.2,
            "weight_decay": 1.5e-6,
            "train_epochs": 1000,
        },
        "linear_eval": {**LINEAR_EVAL_DEFAULTS, "learning_rate": 0.2, "train_epochs": 80},
        "finetune": FINETUNE_DEFAULTS,
    }
    # For the digits: a minute is too short for a target that hardly moves.
    DIGITS: ClassVar[Mapping[str, Any]] = {
        "ema_decay": 0.97,
        "proj_hidden_dim": 256,
        "proj_out_dim": 64,
        "pred_hidden_dim": 256,
    }


class BYOL(Method):
    """BYOL as a Keras model; see the module's docstring."""

    Config = BYOLConfig
    takes_micro_batches = True
    metric_names = ("loss", "target_similarity", "embedding_std", "feature_std", "ema_decay")

    def __init__(
        self,
        backbone: keras.Model,
        config: BYOLConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or BYOLConfig()
        self.projector = self.make_projector(self.config, global_bn=global_bn)
        self.predictor = Perceptron(
            widths=(self.config.pred_hidden_dim, self.config.proj_out_dim),
            hidden_bias=True,
            output_bias=False,
            global_bn=global_bn,
            name="predictor",
        )
        self.target_backbone = clone(backbone, "target_backbone")
        self.target_projector = clone(self.projector, "target_projector")
        self._slow = SlowCopies(
            [(backbone, self.target_backbone), (self.projector, self.target_projector)],
            self.config,
            self.plan,
        )

    @classmethod
    def make_projector(cls, config: BYOLConfig, *, global_bn: bool = True) -> Perceptron:
        """The projector: dense with bias, batch norm, ReLU, dense without bias."""
        return Perceptron(
            widths=(config.proj_hidden_dim, config.proj_out_dim),
            hidden_bias=True,
            output_bias=False,
            global_bn=global_bn,
            name="projector",
        )

    def initialize(self) -> None:
        """The target starts as a copy of the online network."""
        self._slow.start()

    def untrained_layers(self) -> Sequence[keras.Layer]:
        """The target."""
        return self._slow.layers

    def targets(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """The target's projections of both views, [2B, d]."""
        features = forward_views(self.target_backbone, views, training)
        return {"targets": tf.stop_gradient(self.target_projector(features, training=training))}

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Two views [B, H, W, 3] to features [2B, D], embeddings and predictions [2B, d]."""
        seed = self.branch_seed(training)
        features = forward_views(self.backbone, views, training, seed=seed)
        embeddings = self.projector(features, training=training)
        predictions = self.predictor(embeddings, training=training)
        return {"features": features, "embeddings": embeddings, "predictions": predictions}

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Equation 2 in both directions, added up: in [0, 8]."""
        p1, p2 = tf.split(outputs["predictions"], 2)  # [B, d] each
        t1, t2 = tf.split(outputs["targets"], 2)
        loss = losses.cosine_regression(p1, t2, form="squared_distance")
        loss += losses.cosine_regression(p2, t1, form="squared_distance")
        return {
            "loss": loss,
            "target_similarity": 1 - tf.stop_gradient(loss) / 4,
            "embedding_std": losses.feature_std(outputs["embeddings"]),
            "feature_std": losses.feature_std(outputs["features"]),
            "ema_decay": self._slow.decay(outputs["step"]),
        }

    def after_update(self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]) -> None:
        """The target follows the updated online network."""
        self._slow.follow(outputs)
