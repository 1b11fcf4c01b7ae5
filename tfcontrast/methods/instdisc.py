"""InstDisc: Non-Parametric Instance-level Discrimination. Wu et al., 2018, arXiv:1805.01978.

The figure: one view of every image passes the backbone and a linear layer onto the unit sphere. A
memory bank holds one such embedding of every training image; an embedding must be nearest to the
bank's row of its own image, among all rows (full softmax) or among rows drawn at random (NCE). Then
the rows of the batch move half of the way to the new embeddings.

Deviations: the paper's objective has a proximal term, the released code has none: it is there with
``proximal_weight`` above 0. NCE's normalizer is measured on the first batch and kept, as in the
code.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfcontrast import distribute, losses
from tfcontrast.augment.random import example_seeds, random_bits
from tfcontrast.config import MethodConfig, option
from tfcontrast.errors import UserError
from tfcontrast.methods import shared_options
from tfcontrast.methods.base import Method
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS, LINEAR_EVAL_DEFAULTS
from tfcontrast.models import MemoryBank, Perceptron, forward_views

# Keeps the negatives apart from what views draw from the same seeds: no run has as many views.
_NEGATIVES = 0x6E656761


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstDiscConfig(MethodConfig):
    """InstDisc's options; the defaults are the paper's for ImageNet."""

    temperature: float = shared_options.temperature(0.07)
    proj_out_dim: int = shared_options.proj_out_dim(128)
    instance_loss: str = option(
        "nce",
        "What an image is told from: num_negatives rows of the bank by binary decisions (nce) or "
        "by one softmax (sampled_softmax), or all rows (full_softmax).",
        choices=("nce", "sampled_softmax", "full_softmax"),
    )
    num_negatives: int = option(
        4096, "nce, sampled_softmax: rows of the bank drawn for each image.", low=1
    )
    bank_momentum: float = option(
        0.5, "What a row of the memory bank keeps of its old value.", low=0, high=1
    )
    # The paper shows it with weights up to 50; the released code leaves it out.
    proximal_weight: float = option(
        0.0, "nce: weight of the squared distance from an image's row of the bank.", low=0
    )

    # The released recipe for ImageNet (lemniscate): SGD 0.03 at batch 256, everything decayed by
    # 1e-4, a tenth of the rate after 120 and 160 of 200 epochs, no warm-up.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {
            "augmentation": "moco_v1",
            "optimizer": "sgd",
            "learning_rate": 0.03,
            "learning_rate_schedule": "step",
            "decay_epochs": "120,160",
            "warmup_epochs": 0.0,
            "weight_decay": 1e-4,
            "decay_all": True,
            "train_epochs": 200,
            "train_batch_size": 256,
        },
        "linear_eval": LINEAR_EVAL_DEFAULTS,
        "finetune": FINETUNE_DEFAULTS,
    }
    DIGITS: ClassVar[Mapping[str, Any]] = {
        "learning_rate_schedule": "cosine",
        "decay_epochs": "",
        "temperature": 0.1,
        "proj_out_dim": 64,
        "instance_loss": "full_softmax",
    }


class InstDisc(Method):
    """InstDisc as a Keras model; see the module's docstring."""

    Config = InstDiscConfig
    takes_micro_batches = True
    metric_names = (
        "loss",
        "contrastive_accuracy",
        "bank_similarity",
        "log_normalizer",
        "embedding_std",
        "feature_std",
    )
    num_views = 1
    least_batch = 1  # what an image is compared with is in the bank

    def __init__(
        self,
        backbone: keras.Model,
        config: InstDiscConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or InstDiscConfig()
        if self.config.proximal_weight and self.config.instance_loss != "nce":
            raise UserError(
                "--proximal_weight is for --instance_loss=nce. Received: "
                f"{self.config.proximal_weight:g} with {self.config.instance_loss}"
            )
        self.plan.need("num_examples", why="InstDisc's memory bank")
        self.projector = self.make_projector(self.config, global_bn=global_bn)
        self.memory_bank = MemoryBank(
            self.plan.num_examples,
            self.config.proj_out_dim,
            seed=self.plan.seed,
            name="memory_bank",
        )
        self._kept_normalizer = self.add_weight(
            shape=(),
            initializer="zeros",  # 0: not measured yet
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="none",
            name="log_normalizer",
        )

    @classmethod
    def make_projector(cls, config: InstDiscConfig, *, global_bn: bool = True) -> Perceptron:
        """One dense layer with bias."""
        return Perceptron(widths=(config.proj_out_dim,), global_bn=global_bn, name="projector")

    def stuck_loss(self, batch_size: int) -> float | None:
        """A softmax's value when all rows coincide; NCE's depends on the normalizer."""
        del batch_size
        kind = self.config.instance_loss
        if kind == "nce":
            return None
        sampled = self.config.num_negatives + 1
        return math.log(self.plan.num_examples if kind == "full_softmax" else sampled)

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """One view [B, H, W, 3] to features [B, D] and embeddings [B, d]."""
        seed = self.branch_seed(training)
        features = forward_views(self.backbone, views, training, seed=seed)
        return {"features": features, "embeddings": self.projector(features, training=training)}

    def draw_negatives(self, step: tf.Tensor, count: int) -> tf.Tensor:
        """Draws this replica's rows of the bank, uniformly and with replacement.

        An image's draw depends on the seed, the step and its place in the global batch alone.

        Args:
            step: steps before this one.
            count: images of this replica, b.

        Returns:
            int64 [b, num_negatives].
        """
        first = distribute.replica_id() * count
        places = tf.cast(first + tf.range(count), tf.int64)
        counters = tf.cast(step, tf.int64) * (count * distribute.num_replicas()) + places
        seeds = example_seeds(self.plan.seed, counters, _NEGATIVES)
        words = random_bits(seeds, self.config.num_negatives, stream=0)
        return tf.cast(words, tf.int64) % self.plan.num_examples

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """This replica's embeddings against the bank as the last step left it."""
        embeddings, indices = outputs["embeddings"], _indices(batch)
        own = self.memory_bank.lookup(indices)
        logits, targets = losses.in_batch_logits(
            embeddings,
            own,
            temperature=1.0,
            candidates=self.memory_bank.lookup(distribute.gather(indices, differentiable=False)),
            first_row=distribute.first_row(own),
        )
        moved = losses.cosine_regression(embeddings, own, form="negative_cosine")
        loss, log_normalizer = self._instance_loss(embeddings, indices, outputs["step"])
        return {
            "loss": loss,
            "contrastive_accuracy": losses.contrastive_accuracy(logits, targets),
            "bank_similarity": -tf.stop_gradient(moved),
            "log_normalizer": log_normalizer,
            "embedding_std": losses.feature_std(embeddings),
            "feature_std": losses.feature_std(outputs["features"]),
        }

    def _instance_loss(
        self, embeddings: tf.Tensor, indices: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss, and NCE's log Z, 0 for the softmaxes."""
        config, bank = self.config, self.memory_bank.read()
        kept = tf.convert_to_tensor(self._kept_normalizer)
        scale = {"temperature": config.temperature}
        if config.instance_loss == "full_softmax":
            return losses.full_softmax(embeddings, bank, indices, **scale), kept
        negatives = self.draw_negatives(step, embeddings.shape[0])
        if config.instance_loss == "sampled_softmax":
            return losses.sampled_softmax(embeddings, bank, indices, negatives, **scale), kept
        measured = losses.estimate_log_normalizer(embeddings, bank, indices, negatives, **scale)
        log_normalizer = tf.where(tf.equal(kept, 0.0), tf.cast(measured, tf.float32), kept)
        loss = losses.nce(
            embeddings,
            bank,
            indices,
            negatives,
            log_normalizer=log_normalizer,
            proximal_weight=config.proximal_weight,
            **scale,
        )
        return loss, log_normalizer

    def after_update(self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]) -> None:
        """Moves the bank's rows of the global batch; keeps the first step's normalizer."""
        taken, log_normalizer = outputs["taken"], outputs["log_normalizer"]
        keep = tf.logical_and(taken, tf.math.is_finite(log_normalizer))
        kept = tf.convert_to_tensor(self._kept_normalizer)
        self._kept_normalizer.assign(tf.where(keep, log_normalizer, kept))
        rows = tf.math.l2_normalize(outputs["embeddings"], axis=1)
        # The bank refuses rows that are not finite: those of a step that was not taken either.
        rows = tf.where(taken, rows, float("nan"))
        self.memory_bank.update(
            distribute.gather(_indices(batch), differentiable=False),
            distribute.gather(rows, differentiable=False),
            self.config.bank_momentum,
        )


def _indices(batch: Mapping[str, Any]) -> tf.Tensor:
    """The images' places in the data set, int64 [B]."""
    if "index" not in batch:
        raise ValueError(
            "InstDisc needs the images' places in the data set, batch['index'], for its memory "
            f"bank. Received: a batch of {', '.join(sorted(batch))}"
        )
    return tf.cast(batch["index"], tf.int64)
