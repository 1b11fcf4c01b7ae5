"""SimSiam: Exploring Simple Siamese Representation Learning. Chen and He, 2020, arXiv:2011.10566.

The figure: both views pass one backbone and one projector. A predictor on the embedding of one view
must point where the embedding of the other view points, which is held fixed there (stop-gradient).
There are no negatives, no slow copy and no queue; predictor and stop-gradient keep the output from
collapsing. Every view is a batch of its own for batch norm.

Deviation: the released projector's last layer has biases that never move and that the batch norm
after them takes away again; here it has none.
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
class SimSiamConfig(MethodConfig):
    """SimSiam's options; the defaults are the paper's for ImageNet (section 3)."""

    num_proj_layers: int = shared_options.num_proj_layers(3)  # 2 on CIFAR (appendix D)
    proj_hidden_dim: int = shared_options.proj_hidden_dim(2048)
    proj_out_dim: int = shared_options.proj_out_dim(2048)
    pred_hidden_dim: int = shared_options.pred_hidden_dim(512)
    fix_pred_lr: bool = option(
        True, "The predictor keeps the peak learning rate for the whole run."
    )

    # The released recipe (facebookresearch/simsiam): SGD 0.05 x B/256, batch 512, decay 1e-4 of
    # every parameter, 100 epochs, a cosine that moves once an epoch, no warm-up. Its classifier:
    # LARC 0.1 x B/256, batch 4096, 90 epochs, by epoch too.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {
            "augmentation": "moco_v2",
            "optimizer": "sgd",
            "learning_rate": 0.05,
            "schedule_by_epoch": True,
            "warmup_epochs": 0.0,
            "weight_decay": 1e-4,
            "decay_all": True,
            "train_batch_size": 512,
            "train_epochs": 100,
        },
        "linear_eval": {
            **LINEAR_EVAL_DEFAULTS,
            "optimizer": "lars",
            "lars_variant": "larc",
            "nesterov": False,
            "schedule_by_epoch": True,
        },
        "finetune": FINETUNE_DEFAULTS,
    }
    DIGITS: ClassVar[Mapping[str, Any]] = {
        "num_proj_layers": 2,
        "proj_hidden_dim": 256,
        "proj_out_dim": 256,
        "pred_hidden_dim": 64,
    }


class SimSiam(Method):
    """SimSiam as a Keras model; see the module's docstring."""

    Config = SimSiamConfig
    takes_micro_batches = True
    metric_names = ("loss", "embedding_std", "effective_channels", "feature_std")

    def __init__(
        self,
        backbone: keras.Model,
        config: SimSiamConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or SimSiamConfig()
        self.projector = self.make_projector(self.config, global_bn=global_bn)
        self.predictor = Perceptron(
            widths=(self.config.pred_hidden_dim, self.config.proj_out_dim),
            hidden_bias=False,
            output_bias=True,
            global_bn=global_bn,
            name="predictor",
        )

    @classmethod
    def make_projector(cls, config: SimSiamConfig, *, global_bn: bool = True) -> Perceptron:
        """The projector: every layer has batch norm, the last one's learns nothing."""
        hidden = (config.proj_hidden_dim,) * (config.num_proj_layers - 1)
        return Perceptron(
            widths=(*hidden, config.proj_out_dim),
            hidden_bias=False,
            output_bias=False,
            output_norm="plain",
            global_bn=global_bn,
            name="projector",
        )

    def parameter_groups(self) -> Sequence[Group]:
        """The predictor, whose rate is not decayed: it must keep up with the embeddings."""
        if not self.config.fix_pred_lr:
            return ()
        return (Group(layers=(self.predictor,), constant_rate=True),)

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Two views [B, H, W, 3] to features [2B, D], embeddings and predictions [2B, d]."""
        seed = self.branch_seed(training)
        outputs = encode_each_view(self.backbone, self.projector, views, training, seed=seed)
        predictions = [
            self.predictor(z, training=training) for z in tf.split(outputs["embeddings"], 2)
        ]
        return {**outputs, "predictions": tf.concat(predictions, 0)}

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Equation 2, the mean of both directions, in [-1, 1].

        -1 is the best value and that of a collapse too, so the loss does not tell the two apart.
        """
        p1, p2 = tf.split(outputs["predictions"], 2)  # [B, d] each
        z1, z2 = tf.split(outputs["embeddings"], 2)
        loss = losses.cosine_regression(p1, z2, form="negative_cosine")
        loss += losses.cosine_regression(p2, z1, form="negative_cosine")
        return {
            "loss": loss / 2,
            # Healthy: about 1 / sqrt(d), the paper's figure 2.
            "embedding_std": losses.feature_std(outputs["embeddings"]),
            # The projector's last batch norm can keep that up on a single direction.
            "effective_channels": losses.effective_channels(
                z1, candidates=distribute.gather(z1, differentiable=False)
            ),
            "feature_std": losses.feature_std(outputs["features"]),
        }
