"""DINO: Emerging Properties in Self-Supervised Vision Transformers.

Caron et al., 2021, arXiv:2104.14294.

The figure: the two global views pass the teacher, all views (the small local ones too) the student.
Both are a backbone, a projector whose output is normalised, and a weight-normed last layer with one
output a prototype. The teacher's outputs are centred and sharpened into a distribution, which
the student must predict from every other view of the image. The teacher is a moving average of the
student; centring keeps it from one output, sharpening from the uniform one. The teacher's
backbone is what is evaluated.

Deviation: linear evaluation takes the backbone's own features; the paper's ViT-S joins the [CLS]
tokens of the last four blocks.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.config import option
from tfcontrast.methods import shared_options
from tfcontrast.methods.base import Method
from tfcontrast.methods.momentum import MomentumConfig, SlowCopies, clone
from tfcontrast.methods.multi_crop import MultiCropConfig
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS, LINEAR_EVAL_DEFAULTS
from tfcontrast.models import Perceptron, WeightNormDense, forward_views
from tfcontrast.optim import Group

NUM_GLOBAL_VIEWS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class DINOConfig(MultiCropConfig, MomentumConfig):
    """DINO's options; the defaults are the paper's."""

    num_local_views: int = shared_options.num_local_views(8)
    num_proj_layers: int = shared_options.num_proj_layers(3)
    proj_hidden_dim: int = shared_options.proj_hidden_dim(2048)
    proj_out_dim: int = shared_options.proj_out_dim(256)
    num_prototypes: int = shared_options.num_prototypes(65536)
    use_bn_in_head: bool = option(False, "Batch norm after the projector's hidden layers.")
    norm_last_layer: bool = option(
        True, "Keep the lengths of the last layer's weights at 1 instead of training them."
    )
    freeze_last_layer_epochs: int = option(
        1, "First epochs in which the last layer stands still.", low=0
    )
    temperature: float = shared_options.temperature(0.1)
    # Section 3.2's warm-up; the released code's default is 0.04 throughout.
    teacher_temperature: float = option(
        0.07, "Temperature of the teacher after its warm-up.", low=1e-4
    )
    teacher_temperature_start: float = option(
        0.04, "Temperature of the teacher in the first epoch of its warm-up.", low=1e-4
    )
    teacher_temperature_epochs: int = option(
        30, "Epochs in which the teacher's temperature warms up; 0: none.", low=0
    )
    center_momentum: float = option(
        0.9, "What the center keeps of itself at each step; 1: no centring.", low=0, high=1
    )

    # The paper's vision transformers: AdamW 0.0005 x B/256 at batch 1024 with 10 epochs of warm-up,
    # a cosine to 1e-6 (of 0.002), weight decay from 0.04 to 0.4; clipping is the released code's.
    # Linear evaluation: the released code's SGD without Nesterov.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {
            "augmentation": "dino",
            "optimizer": "adamw",
            "learning_rate": 0.0005,
            "final_learning_rate": 0.0005,
            "weight_decay": 0.04,
            "final_weight_decay": 0.4,
            "clip_tensor_norm": 3.0,
            "train_batch_size": 1024,
        },
        "linear_eval": {
            **LINEAR_EVAL_DEFAULTS,
            "nesterov": False,
            "learning_rate": 0.001,
            "train_epochs": 100,
            "train_batch_size": 1024,
        },
        "finetune": FINETUNE_DEFAULTS,
    }
    # Sizes that fit the digits; chosen, not tuned.
    DIGITS: ClassVar[Mapping[str, Any]] = {
        "final_learning_rate": 0.0,
        "final_weight_decay": -1.0,
        "clip_norm": 0.0,
        "num_local_views": 0,
        "proj_hidden_dim": 256,
        "proj_out_dim": 64,
        "num_prototypes": 256,
        "teacher_temperature_epochs": 0,
        "teacher_temperature": 0.04,
        "ema_decay": 0.97,
    }


class DINO(Method):
    """DINO as a Keras model; see the module's docstring."""

    Config = DINOConfig
    takes_micro_batches = True
    metric_names = (
        "loss",
        "teacher_entropy",
        "teacher_student_kl",
        "teacher_temperature",
        "center_norm",
        "ema_decay",
        "embedding_std",
        "feature_std",
    )
    num_views = NUM_GLOBAL_VIEWS
    encoder_name = "target_backbone"

    def __init__(
        self,
        backbone: keras.Model,
        config: DINOConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or DINOConfig()
        for name in ("freeze_last_layer_epochs", "teacher_temperature_epochs"):
            if getattr(self.config, name):
                self.plan.need("steps_per_epoch", why=name)
        self.projector = self.make_projector(self.config, global_bn=global_bn)
        self.last_layer = WeightNormDense(
            self.config.num_prototypes,
            train_gain=not self.config.norm_last_layer,
            name="last_layer",
        )
        student = (backbone, self.projector, self.last_layer)
        teacher = [clone(network, f"target_{network.name}") for network in student]
        self.target_backbone, self.target_projector, self.target_last_layer = teacher
        self._slow = SlowCopies(list(zip(student, teacher, strict=True)), self.config, self.plan)
        self.center = self.add_weight(
            shape=(self.config.num_prototypes,),
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="none",
            name="center",
        )

    @classmethod
    def make_projector(cls, config: DINOConfig, *, global_bn: bool = True) -> Perceptron:
        """The perceptron before normalisation and last layer: dense with bias, GELU between."""
        hidden = (config.proj_hidden_dim,) * (config.num_proj_layers - 1)
        return Perceptron(
            widths=(*hidden, config.proj_out_dim),
            hidden_bias=True,
            hidden_norm="affine" if config.use_bn_in_head else "none",
            activation="gelu",
            initialization="trunc_normal",
            global_bn=global_bn,
            name="projector",
        )

    def initialize(self) -> None:
        """The teacher starts as a copy of the student."""
        self._slow.start()

    def untrained_layers(self) -> Sequence[keras.Layer]:
        """The teacher."""
        return self._slow.layers

    def parameter_groups(self) -> Sequence[Group]:
        """The last layer, which waits until the features mean something."""
        steps = self.config.freeze_last_layer_epochs * self.plan.steps_per_epoch
        return (Group(layers=(self.last_layer,), freeze_steps=steps),) if steps else ()

    def stuck_loss(self, batch_size: int) -> float | None:
        """The loss of a student whose outputs are all alike, where it also starts: log K."""
        return math.log(self.config.num_prototypes)

    def targets(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """The teacher's outputs for the global views, [2B, K]."""
        # Without a seed a vision transformer drops no branch: the teacher runs whole.
        features = forward_views(self.target_backbone, views[:NUM_GLOBAL_VIEWS], training)
        embeddings = self.target_projector(features, training=training)
        logits = self.target_last_layer(losses.unit_rows(embeddings))
        return {"teacher_logits": tf.stop_gradient(logits)}

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """V views, the global ones first, to features [VB, D], embeddings and logits [VB, K]."""
        seed = self.branch_seed(training)
        features = forward_views(self.backbone, views, training, seed=seed)
        embeddings = self.projector(features, training=training)
        logits = self.last_layer(losses.unit_rows(embeddings))
        return {"features": features, "embeddings": embeddings, "student_logits": logits}

    def teacher_temperature(self, step: tf.Tensor) -> tf.Tensor:
        """What sharpens the teacher at this step: it rises from epoch to epoch, then stays."""
        config = self.config
        start, end = config.teacher_temperature_start, config.teacher_temperature
        if not config.teacher_temperature_epochs:
            return tf.constant(end)
        epoch = tf.cast(step // self.plan.steps_per_epoch, tf.float32)
        # The warm-up's last epoch has the end's temperature already, as in the released code.
        share = tf.minimum(epoch / max(config.teacher_temperature_epochs - 1, 1), 1.0)
        return start + share * (end - start)

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Equation 3: the mean over the 2 (V - 1) pairs of a global view and another view."""
        teacher = tf.split(outputs["teacher_logits"], NUM_GLOBAL_VIEWS)
        student = tf.split(
            outputs["student_logits"], outputs["student_logits"].shape[0] // teacher[0].shape[0]
        )
        center = tf.convert_to_tensor(self.center)
        sharpness = self.teacher_temperature(outputs["step"])
        goals = [losses.teacher_probabilities(t, center, temperature=sharpness) for t in teacher]
        temperature = self.config.temperature
        return {
            "loss": losses.dino_loss(student, goals, temperature=temperature),
            **losses.dino_metrics(student, goals, temperature=temperature),
            "teacher_temperature": sharpness,
            "center_norm": tf.norm(center),
            "ema_decay": self._slow.decay(outputs["step"]),
            "embedding_std": losses.feature_std(outputs["embeddings"]),
            "feature_std": losses.feature_std(outputs["features"]),
        }

    def after_update(self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]) -> None:
        """The teacher follows the updated student, the center the teacher's raw outputs."""
        self._slow.follow(outputs)
        center = tf.convert_to_tensor(self.center)
        moved = losses.update_center(
            center, outputs["teacher_logits"], momentum=self.config.center_momentum
        )
        self.center.assign(tf.where(outputs["taken"], moved, center))
