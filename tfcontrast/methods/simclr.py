"""SimCLR: A Simple Framework for Contrastive Learning of Visual Representations.

Chen et al., 2020, arXiv:2002.05709.

The figure: two views of every image pass one backbone (features h) and one projector (embeddings
z); the two embeddings of an image attract each other and repel those of every other image of the
global batch. SimCLR v2 (arXiv:2006.10029) is a recipe of this method: deeper projector, selective
kernels, and finetuning from the projector's first layer.

Deviation: the released code sums the loss of both directions; here it is the paper's mean over the
2B anchors unless ``loss_scale=2``.
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
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.projection import ProjectionConfig, encode_views, make_projector
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS, LINEAR_EVAL_DEFAULTS
from tfcontrast.models import Projector


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimCLRConfig(ProjectionConfig):
    """SimCLR's options."""

    temperature: float = shared_options.temperature(0.1)
    contrastive_loss: str = option(
        "nt_xent",
        "The loss: nt_xent, nt_logistic or margin_triplet.",
        choices=("nt_xent", "nt_logistic", "margin_triplet"),
    )
    negative_mining: str = option(
        "none", "nt_logistic, margin_triplet: which negatives.", choices=("none", "semi_hard")
    )
    margin: float = option(0.5, "margin_triplet, and semi-hard mining: the margin.", low=0)
    loss_scale: float = shared_options.loss_scale(1.0)

    # The paper's ImageNet recipe: LARS 0.3 x B/256, weight decay 1e-6, batch 4096, 10 epochs of
    # warm-up, cosine.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {},
        "linear_eval": LINEAR_EVAL_DEFAULTS,
        "finetune": FINETUNE_DEFAULTS,
    }


class SimCLR(Method):
    """SimCLR as a Keras model; see the module's docstring."""

    Config = SimCLRConfig
    takes_micro_batches = True
    metric_names = (
        "loss",
        "contrastive_accuracy",
        "contrastive_entropy",
        "mutual_information_bound",
        "feature_std",
    )

    def __init__(
        self,
        backbone: keras.Model,
        config: SimCLRConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or SimCLRConfig()
        self.projector = self.make_projector(self.config, global_bn=global_bn)

    @classmethod
    def make_projector(cls, config: SimCLRConfig, *, global_bn: bool = True) -> Projector:
        """The projector that the options describe."""
        return make_projector(config, global_bn=global_bn)

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Two views [B, H, W, 3] to features [2B, D] and embeddings [2B, d]."""
        seed = self.branch_seed(training)
        return encode_views(self.backbone, self.projector, views, training, seed=seed)

    def stuck_loss(self, batch_size: int) -> float | None:
        """NT-Xent's value when every embedding is as near as any other: log(2B - 1)."""
        if self.config.contrastive_loss != "nt_xent":
            return None
        return self.config.loss_scale * math.log(2 * batch_size - 1)

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Local anchors against the embeddings of every replica."""
        z1, z2 = tf.split(outputs["embeddings"], 2)  # [B, d] each
        where: dict[str, Any] = {}
        if distribute.num_replicas() > 1:
            both = distribute.gather(tf.stack([z1, z2], 1))
            where = {"candidates": (both[:, 0], both[:, 1]), "first_row": distribute.first_row(z1)}
        loss = self._contrastive_loss(z1, z2, where)
        metrics = losses.contrastive_metrics(
            z1,
            z2,
            temperature=self.config.temperature,
            nt_xent=loss if self.config.contrastive_loss == "nt_xent" else None,
            **where,
        )
        return {
            "loss": self.config.loss_scale * loss,
            **metrics,
            "feature_std": losses.feature_std(outputs["features"]),
        }

    def _contrastive_loss(self, z1: tf.Tensor, z2: tf.Tensor, where: dict[str, Any]) -> tf.Tensor:
        config = self.config
        if config.contrastive_loss == "nt_xent":
            return losses.nt_xent(z1, z2, temperature=config.temperature, **where)
        if config.contrastive_loss == "nt_logistic":
            return losses.nt_logistic(
                z1,
                z2,
                temperature=config.temperature,
                mining=config.negative_mining,
                margin=config.margin,
                **where,
            )
        return losses.margin_triplet(
            z1, z2, margin=config.margin, mining=config.negative_mining, **where
        )
