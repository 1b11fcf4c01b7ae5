"""The cross-entropy baseline, and the classifier of ``linear_eval`` and ``finetune``.

From scratch it is the baseline that SimCLR and SupCon are compared with. On a
pretrained backbone, with everything before the classifier frozen, it is linear evaluation; with all
or the last groups trainable, finetuning.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.config import MethodConfig, option
from tfcontrast.methods.base import Method
from tfcontrast.methods.plan import Plan
from tfcontrast.models import Perceptron, Projector, ResNet, VisionTransformer, forward_views

FROZEN_ENCODER = -2

# SimCLR's protocols, which others took over: Nesterov momentum, 0.1 x B/256 on the frozen encoder,
# 0.05 x B/256 on the whole network; batch 4096, no warm-up, no decay.
LINEAR_EVAL_DEFAULTS: Mapping[str, Any] = {
    "augmentation": "crop_flip",
    "optimizer": "sgd",
    "nesterov": True,
    "learning_rate": 0.1,
    "warmup_epochs": 0.0,
    "weight_decay": 0.0,
    "train_epochs": 90,
    "train_batch_size": 4096,
}
FINETUNE_DEFAULTS: Mapping[str, Any] = {
    **LINEAR_EVAL_DEFAULTS,
    "learning_rate": 0.05,
    "train_epochs": 60,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SupervisedConfig(MethodConfig):
    """Options of the cross-entropy baseline."""

    label_smoothing: float = option(
        0.0, "Share of the target spread over all classes.", low=0, high=0.99
    )

    # The baseline of the released SupCon code for ImageNet: Nesterov 0.1 x B/256, weight decay
    # 1e-4, 200 epochs.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {
            "augmentation": "crop_flip",
            "optimizer": "sgd",
            "nesterov": True,
            "learning_rate": 0.1,
            "weight_decay": 1e-4,
            "train_batch_size": 6144,
            "train_epochs": 200,
            "warmup_epochs": 12.0,
            "lineareval_while_pretraining": False,
        },
        "linear_eval": LINEAR_EVAL_DEFAULTS,
        "finetune": FINETUNE_DEFAULTS,
    }


class Supervised(Method):
    """Cross-entropy on a linear classifier; see the module's docstring.

    Args:
        backbone: the encoder.
        config: its options.
        num_classes: classes of the classifier.
        plan: the numbers of the run.
        global_bn: unused: this method adds no batch norm of its own.
        projector: the pretrained projector whose first layers stay under the classifier.
        projector_layers: how many of them: 0 none, -1 all.
        frozen_groups: what stays as it is, in inference mode: -1 nothing, 0 the stem (of a vision
            transformer the patches' embedding), k the stem and the first k groups (blocks);
            ``FROZEN_ENCODER``, or all there are, freezes the backbone and the projector: linear
            evaluation.
        zero_init: start the classifier at zero instead of N(0, 0.01).

    Raises:
        ValueError: the backbone has no such group, or the projector no such layer.
    """

    Config = SupervisedConfig
    takes_micro_batches = True
    needs_labels = True
    num_views = 1
    least_batch = 1  # an image is compared with its label
    metric_names = ("loss", "train_top1", "prediction_entropy", "feature_std")

    def __init__(
        self,
        backbone: ResNet | VisionTransformer,
        config: SupervisedConfig | None = None,
        *,
        num_classes: int,
        plan: Plan | None = None,
        global_bn: bool = True,
        projector: Projector | Perceptron | None = None,
        projector_layers: int = 0,
        frozen_groups: int = -1,
        zero_init: bool = False,
    ) -> None:
        super().__init__(backbone, plan=plan)
        self.config = config or SupervisedConfig()
        self.projector = projector if projector_layers else None
        self.projector_layers = projector_layers
        every = backbone.num_groups
        self.frozen_groups = every if frozen_groups == FROZEN_ENCODER else frozen_groups
        self._frozen_whole = self.frozen_groups == every
        weights = "zeros" if zero_init else keras.initializers.RandomNormal(stddev=0.01)
        self.classifier = keras.layers.Dense(
            num_classes, kernel_initializer=weights, dtype="float32", name="classifier"
        )
        backbone.freeze(self.frozen_groups)
        if self.projector is not None:
            self.projector.build((None, backbone.feature_dim))
            self._settle_projector(self.projector)

    def _settle_projector(self, projector: Projector | Perceptron) -> None:
        """Freezes the layers above the classifier's input, under a frozen backbone all of them."""
        last = len(projector.dense_layers)
        if not -1 <= self.projector_layers <= last:
            raise ValueError(
                f"projector_layers must be between -1 and {last}. Received: {self.projector_layers}"
            )
        kept = last if self.projector_layers == -1 else self.projector_layers
        if self._frozen_whole:
            kept = 0
        for layer in (*projector.dense_layers[kept:], *projector.norms[kept:]):
            if layer is not None:
                layer.trainable = False

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """One view through backbone, kept projector layers and classifier."""
        learns = training and not self._frozen_whole
        seed = self.branch_seed(learns)
        features = forward_views(self.backbone, views, learns, seed=seed)  # [B, D]
        if self.projector is not None:
            features = self.projector.outputs(features, training=learns)[self.projector_layers]
        return {"features": features, "logits": self.classifier(features)}

    def classify(self, images: tf.Tensor) -> tf.Tensor:
        """[B, H, W, 3] in [0, 1] to float32 logits [B, classes], in inference mode."""
        return self((images,), training=False)["logits"]

    def stuck_loss(self, batch_size: int) -> float | None:
        """The cross-entropy of equal probabilities, whatever the smoothing: log K."""
        del batch_size
        return math.log(self.classifier.units)

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Cross-entropy, accuracy on the training views, entropy of the predictions in nats."""
        logits, labels = outputs["logits"], batch["label"]
        log_probabilities = tf.nn.log_softmax(logits)
        hits = tf.equal(tf.argmax(logits, 1, output_type=labels.dtype), labels)
        return {
            "loss": losses.cross_entropy(
                logits, labels, label_smoothing=self.config.label_smoothing
            ),
            "train_top1": tf.reduce_mean(tf.cast(hits, tf.float32)),
            "prediction_entropy": -tf.reduce_mean(
                tf.reduce_sum(tf.exp(log_probabilities) * log_probabilities, 1)
            ),
            "feature_std": losses.feature_std(outputs["features"]),
        }
