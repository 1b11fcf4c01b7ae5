"""Barlow Twins: Self-Supervised Learning via Redundancy Reduction.

Zbontar et al., 2021, arXiv:2103.03230.

The figure: both views pass one backbone and one wide projector. Over the global batch every channel
of one view's embeddings is correlated with every channel of the other view's: the matrix must be
the identity. Its diagonal makes the views agree, the rest keeps channels from repeating each other.
Gradients reach both views; there are no negatives, no predictor and no slow copy. Every view is a
batch of its own for batch norm.

Deviation: in the released code every process computes the whole loss, and the average over the
processes then divides the gradients by their number once more. LARS takes no notice but for biases
and norms, which it does not adapt: there ours are as large as on one device.
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
from tfcontrast.optim import Group


@dataclasses.dataclass(frozen=True, kw_only=True)
class BarlowTwinsConfig(MethodConfig):
    """Barlow Twins' options; the defaults are the released recipe's (facebookresearch)."""

    num_proj_layers: int = shared_options.num_proj_layers(3)
    proj_hidden_dim: int = shared_options.proj_hidden_dim(8192)
    proj_out_dim: int = shared_options.proj_out_dim(8192)
    off_diagonal_weight: float = option(
        0.0051, "Weight of the correlations of different channels (lambda).", low=0
    )
    loss_scale: float = shared_options.loss_scale(1.0)
    bias_rate_scale: float = option(
        0.024,
        "Learning rate of biases and norms as a share of learning_rate; 0.024 is the released "
        "recipe's 0.0048 / 0.2.",
        low=0,
    )

    # The released recipe for 1000 epochs: LARS 0.2 x B/256, batch 2048, decay 1e-6, 10 epochs of
    # warm-up, cosine to a thousandth. Its classifier: SGD 0.3, batch 256, decay 1e-6, 100 epochs,
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
            "learning_rate": 0.3,
            "schedule_by_epoch": True,
            "weight_decay": 1e-6,
            "decay_all": True,
            "train_batch_size": 256,
            "train_epochs": 100,
        },
        "finetune": FINETUNE_DEFAULTS,
    }
    # sgd with a clipped gradient needs no slower biases, which are for LARS.
    DIGITS: ClassVar[Mapping[str, Any]] = {
        "proj_hidden_dim": 256,
        "proj_out_dim": 256,
        "bias_rate_scale": 1.0,
    }


class BarlowTwins(Method):
    """Barlow Twins as a Keras model; see the module's docstring."""

    Config = BarlowTwinsConfig
    takes_micro_batches = True
    metric_names = ("loss", "on_diagonal", "off_diagonal", "effective_channels", "feature_std")

    def __init__(
        self,
        backbone: keras.Model,
        config: BarlowTwinsConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or BarlowTwinsConfig()
        self.projector = self.make_projector(self.config, global_bn=global_bn)

    @classmethod
    def make_projector(cls, config: BarlowTwinsConfig, *, global_bn: bool = True) -> Perceptron:
        """The projector: no biases; the loss standardises its output."""
        hidden = (config.proj_hidden_dim,) * (config.num_proj_layers - 1)
        return Perceptron(
            widths=(*hidden, config.proj_out_dim),
            hidden_bias=False,
            output_bias=False,
            global_bn=global_bn,
            name="projector",
        )

    def parameter_groups(self) -> Sequence[Group]:
        """Biases and norms, which LARS does not adapt."""
        if self.config.bias_rate_scale == 1.0:
            return ()
        return (Group(roles=("bias", "norm"), rate_scale=self.config.bias_rate_scale),)

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Two views [B, H, W, 3] to features [2B, D] and embeddings [2B, d]."""
        seed = self.branch_seed(training)
        return encode_each_view(self.backbone, self.projector, views, training, seed=seed)

    def stuck_loss(self, batch_size: int) -> float | None:
        """The value of a constant output, whose correlations are all 0: one for each channel."""
        del batch_size
        return self.config.loss_scale * self.config.proj_out_dim

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Equation 1 over the global batch; each replica computes its share of the channels."""
        config = self.config
        z1, z2 = tf.split(outputs["embeddings"], 2)  # [b, d] each
        both = distribute.gather(tf.stack([z1, z2], 1))  # [B, 2, d]
        first_row = distribute.first_row(z1)
        terms = losses.barlow_twins_terms(
            z1, z2, candidates=(both[:, 0], both[:, 1]), first_row=first_row
        )
        loss = terms["on_diagonal"] + config.off_diagonal_weight * terms["off_diagonal"]
        return {
            "loss": config.loss_scale * loss,
            **{name: tf.stop_gradient(value) for name, value in terms.items()},
            "effective_channels": losses.effective_channels(z1, candidates=both[:, 0]),
            "feature_std": losses.feature_std(outputs["features"]),
        }
