"""VICReg: Variance-Invariance-Covariance Regularization. Bardes et al., 2021, arXiv:2105.04906.

The figure: both views pass one backbone and one wide expander (the projector here). Three terms
look at the embeddings: those of the two views must be equal (invariance), every channel must keep a
standard deviation of 1 over the global batch (variance), and no two channels may covary
(covariance). Gradients reach both views; there are no negatives, no predictor and no slow copy.
Every view is a batch of its own for batch norm.

Deviations: the released expander's hidden layers have biases, which the batch norm after them takes
away again; here they have none. The paper's equation sums the variance terms of the two views, the
released code takes their mean; here it is the code's, which its weights of 25, 25 and 1 belong to,
unless ``variance_halves=false``.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfcontrast import distribute, losses
from tfcontrast.config import MethodConfig, option
from tfcontrast.methods import shared_options
from tfcontrast.methods.base import Method
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.projection import encode_each_view
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS, LINEAR_EVAL_DEFAULTS
from tfcontrast.models import Perceptron


@dataclasses.dataclass(frozen=True, kw_only=True)
class VICRegConfig(MethodConfig):
    """VICReg's options; the defaults are the released recipe's (facebookresearch/vicreg)."""

    num_proj_layers: int = shared_options.num_proj_layers(3)
    proj_hidden_dim: int = shared_options.proj_hidden_dim(8192)
    proj_out_dim: int = shared_options.proj_out_dim(8192)
    invariance_weight: float = option(
        25.0, "Weight of the squared distance between the views.", low=0
    )
    variance_weight: float = option(
        25.0, "Weight of the hinge that keeps every channel's deviation at 1.", low=0
    )
    covariance_weight: float = option(1.0, "Weight of the channels' squared covariances.", low=0)
    variance_halves: bool = option(
        True,
        "Take the mean of the two views' variance terms (the released code), not their sum "
        "(the paper, solo-learn).",
    )

    # The released recipe for 1000 epochs: LARS 0.2 x B/256, batch 2048, decay 1e-6, 10 epochs of
    # warm-up, cosine to a thousandth. Its classifier: SGD 0.02, batch 256, decay 1e-6, 100 epochs,
    # a cosine by epoch.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {
            "augmentation": "barlow_twins",
            "lars_variant": "byol",
            "learning_rate": 0.2,
            "final_learning_rate": 0.001,
            "weight_decay": 1e-6,
            "train_batch_size": 2048,
            "train_epochs": 1000,
        },
        "linear_eval": {
            **LINEAR_EVAL_DEFAULTS,
            "nesterov": False,
            "learning_rate": 0.02,
            "schedule_by_epoch": True,
            "weight_decay": 1e-6,
            "decay_all": True,
            "train_batch_size": 256,
            "train_epochs": 100,
        },
        "finetune": FINETUNE_DEFAULTS,
    }
    DIGITS: ClassVar[Mapping[str, Any]] = {"proj_hidden_dim": 256, "proj_out_dim": 256}


class VICReg(Method):
    """VICReg as a Keras model; see the module's docstring."""

    Config = VICRegConfig
    takes_micro_batches = True
    metric_names = (
        "loss",
        "invariance",
        "variance",
        "covariance",
        "effective_channels",
        "feature_std",
    )

    def __init__(
        self,
        backbone: keras.Model,
        config: VICRegConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or VICRegConfig()
        self.projector = self.make_projector(self.config, global_bn=global_bn)

    @classmethod
    def make_projector(cls, config: VICRegConfig, *, global_bn: bool = True) -> Perceptron:
        """The expander: no biases, since batch norm follows; none after the last layer either."""
        hidden = (config.proj_hidden_dim,) * (config.num_proj_layers - 1)
        return Perceptron(
            widths=(*hidden, config.proj_out_dim),
            hidden_bias=False,
            output_bias=False,
            global_bn=global_bn,
            name="projector",
        )

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Two views [B, H, W, 3] to features [2B, D] and embeddings [2B, d]."""
        seed = self.branch_seed(training)
        return encode_each_view(self.backbone, self.projector, views, training, seed=seed)

    def stuck_loss(self, batch_size: int) -> float | None:
        """The variance term of a constant output: 1 - 0.01, for deviations are sqrt(var + 1e-4)."""
        del batch_size
        return 0.99 * self.config.variance_weight * (1 if self.config.variance_halves else 2)

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Equation 6, with the variances and covariances of the global batch."""
        config = self.config
        z1, z2 = tf.split(outputs["embeddings"], 2)  # [b, d] each
        both = distribute.gather(tf.stack([z1, z2], 1))  # [B, 2, d]
        first_row = distribute.first_row(z1)
        terms = losses.vicreg_terms(
            z1,
            z2,
            halves=config.variance_halves,
            candidates=(both[:, 0], both[:, 1]),
            first_row=first_row,
        )
        loss = (
            config.invariance_weight * terms["invariance"]
            + config.variance_weight * terms["variance"]
            + config.covariance_weight * terms["covariance"]
        )
        return {
            "loss": loss,
            **{name: tf.stop_gradient(value) for name, value in terms.items()},
            "effective_channels": losses.effective_channels(z1, candidates=both[:, 0]),
            "feature_std": losses.feature_std(outputs["features"]),
        }
