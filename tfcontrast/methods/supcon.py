"""SupCon: Supervised Contrastive Learning. Khosla et al., 2020, arXiv:2004.11362.

The figure: SimCLR's two views, backbone and projector, but every view of every image of the same
class is a positive. The classifier is trained afterwards on the frozen features
(``--train_mode=linear_eval``).

Deviation: the released codes multiply the loss by the temperature (TensorFlow) or by temperature /
0.07 (PyTorch); here it is the paper's equation unless ``loss_temperature_scale`` says so.
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
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS
from tfcontrast.models import Projector


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupConConfig(ProjectionConfig):
    """SupCon's options."""

    num_proj_layers: int = shared_options.num_proj_layers(2)
    proj_batch_norm: bool = option(False, "Batch norm after the projector's layers.")
    temperature: float = shared_options.temperature(0.1)
    supcon_variant: str = option(
        "out",
        "Sum over positives outside (the paper's L_out) or inside (L_in) the log.",
        choices=("out", "in"),
    )
    denominator: str = option(
        "all",
        "Candidates in the denominator: all, one_positive or only_negatives.",
        choices=("all", "one_positive", "only_negatives"),
    )
    positives_cap: int = option(
        -1, "Most positives besides the anchor's own views; -1: no cap.", low=-1
    )
    loss_temperature_scale: str = option(
        "none",
        "Factor of the loss: none, temperature, or base (temperature / 0.07).",
        choices=("none", "temperature", "base"),
    )

    # The released ImageNet recipe: LARS 0.4 x B/256, batch 6144, 350 epochs,
    # temperature 0.1.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {
            "learning_rate": 0.4,
            "train_batch_size": 6144,
            "train_epochs": 350,
            "warmup_epochs": 12.0,
            "weight_decay": 1e-4,
        },
        # The released stage 2: RMSProp 0.05 x B/256, decayed by 0.97 every half epoch, 90 epochs.
        "linear_eval": {
            "augmentation": "crop_flip",
            "optimizer": "rmsprop",
            "learning_rate": 0.05,
            "learning_rate_schedule": "exponential",
            "decay_epochs": "0.5",
            "decay_rate": 0.97,
            "warmup_epochs": 0.0,
            "weight_decay": 1e-6,
            "train_epochs": 90,
            "train_batch_size": 6144,
        },
        "finetune": FINETUNE_DEFAULTS,
    }


class SupCon(Method):
    """SupCon as a Keras model; see the module's docstring."""

    Config = SupConConfig
    takes_micro_batches = True
    needs_labels = True
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
        config: SupConConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or SupConConfig()
        self.projector = self.make_projector(self.config, global_bn=global_bn)

    @classmethod
    def make_projector(cls, config: SupConConfig, *, global_bn: bool = True) -> Projector:
        """The projector that the options describe."""
        return make_projector(config, global_bn=global_bn)

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Two views [B, H, W, 3] to features [2B, D] and embeddings [2B, d]."""
        seed = self.branch_seed(training)
        return encode_views(self.backbone, self.projector, views, training, seed=seed)

    def stuck_loss(self, batch_size: int) -> float | None:
        """The loss when every embedding is as near as any other: log(2B - 1), scaled."""
        config = self.config
        if config.denominator != "all" or config.positives_cap >= 0:
            return None  # how many candidates there are depends on the batch's labels
        scales = {"none": 1.0, "temperature": config.temperature, "base": config.temperature / 0.07}
        return scales[config.loss_temperature_scale] * math.log(2 * batch_size - 1)

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Local anchors against the embeddings and labels of every replica.

        The contrastive metrics are SimCLR's, with the other view as the one positive: a bound on
        mutual information is not defined for several positives.
        """
        config = self.config
        views = tf.stack(tf.split(outputs["embeddings"], 2), 1)  # [B, 2, d]
        labels = tf.cast(batch["label"], tf.int32)  # a TPU sums no int64 over its cores
        where: dict[str, Any] = {}
        pairs: dict[str, Any] = {}
        if distribute.num_replicas() > 1:
            everyone, first_row = distribute.gather(views), distribute.first_row(labels)
            where = {"candidates": (everyone, distribute.gather(labels)), "first_row": first_row}
            pairs = {"candidates": (everyone[:, 0], everyone[:, 1]), "first_row": first_row}
        loss = losses.supcon(
            views,
            labels,
            temperature=config.temperature,
            variant=config.supcon_variant,
            denominator=config.denominator,
            positives_cap=None if config.positives_cap < 0 else config.positives_cap,
            scale=config.loss_temperature_scale,
            **where,
        )
        metrics = losses.contrastive_metrics(
            views[:, 0], views[:, 1], temperature=config.temperature, **pairs
        )
        return {"loss": loss, **metrics, "feature_std": losses.feature_std(outputs["features"])}
