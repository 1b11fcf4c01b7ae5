"""NNCLR: With a Little Help from My Friends. Dwibedi et al., 2021, arXiv:2104.14548.

The figure: two views of every image pass backbone and projector (embeddings z), and a predictor
after it (p). A queue, the support set, holds the embeddings of recent first views. The nearest
neighbour of z1 in it stands in for z1: among the predictions of all second views it must find that
of its own image; and the same with the views swapped. The neighbours carry no gradient.

Deviations: there is no released code; the layers are the paper's. Dense layers before a batch norm
have no biases here: it would take them away again.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfcontrast import distribute, losses
from tfcontrast.config import MethodConfig
from tfcontrast.errors import UserError
from tfcontrast.methods import shared_options
from tfcontrast.methods.base import Method
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS, LINEAR_EVAL_DEFAULTS
from tfcontrast.models import Perceptron, Queue, forward_views


@dataclasses.dataclass(frozen=True, kw_only=True)
class NNCLRConfig(MethodConfig):
    """NNCLR's options; the defaults are the paper's for ImageNet."""

    temperature: float = shared_options.temperature(0.1)
    queue_size: int = shared_options.queue_size(98304)
    num_proj_layers: int = shared_options.num_proj_layers(3)
    proj_hidden_dim: int = shared_options.proj_hidden_dim(2048)
    proj_out_dim: int = shared_options.proj_out_dim(256)
    pred_hidden_dim: int = shared_options.pred_hidden_dim(4096)

    # The paper's ImageNet recipe: LARS 0.3 x B/256, weight decay 1e-6, batch 4096, 10 epochs of
    # warm-up, cosine, 1000 epochs.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {"train_epochs": 1000},
        "linear_eval": LINEAR_EVAL_DEFAULTS,
        "finetune": FINETUNE_DEFAULTS,
    }
    DIGITS: ClassVar[Mapping[str, Any]] = {
        "queue_size": 1024,
        "num_proj_layers": 2,
        "proj_hidden_dim": 256,
        "proj_out_dim": 64,
        "pred_hidden_dim": 256,
    }


class NNCLR(Method):
    """NNCLR as a Keras model; see the module's docstring."""

    Config = NNCLRConfig
    takes_micro_batches = True
    metric_names = (
        "loss",
        "contrastive_accuracy",
        "nearest_neighbour_accuracy",
        "queue_age",
        "embedding_std",
        "feature_std",
    )

    def __init__(
        self,
        backbone: keras.Model,
        config: NNCLRConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or NNCLRConfig()
        if self.config.queue_size < self.plan.batch_size:
            raise UserError(
                "--queue_size must be at least --train_batch_size. Received: "
                f"{self.config.queue_size} and {self.plan.batch_size}"
            )
        self.projector = self.make_projector(self.config, global_bn=global_bn)
        self.predictor = Perceptron(
            widths=(self.config.pred_hidden_dim, self.config.proj_out_dim),
            global_bn=global_bn,
            name="predictor",
        )
        self.queue = Queue(
            self.config.queue_size,
            self.config.proj_out_dim,
            seed=self.plan.seed,
            with_labels=True,
            name="queue",
        )

    @classmethod
    def make_projector(cls, config: NNCLRConfig, *, global_bn: bool = True) -> Perceptron:
        """The projector: dense layers, each with batch norm, ReLU between them."""
        hidden = (config.proj_hidden_dim,) * (config.num_proj_layers - 1)
        return Perceptron(
            widths=(*hidden, config.proj_out_dim),
            output_bias=False,
            output_norm="affine",
            global_bn=global_bn,
            name="projector",
        )

    def stuck_loss(self, batch_size: int) -> float | None:
        """The value when all predictions coincide: log B."""
        return math.log(batch_size)

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
        """Equation 3 of the paper in both directions, averaged; the queue is the last step's."""
        p1, p2 = tf.split(outputs["predictions"], 2)  # [B, d] each
        everyone = distribute.gather(tf.stack([p1, p2], 1))
        neighbours, places = losses.nearest_neighbours(outputs["embeddings"], self.queue.read())
        n1, n2 = tf.split(neighbours, 2)
        loss, accuracy = [], []
        for queries, keys, view in ((n1, p2, 1), (n2, p1, 0)):
            where: dict[str, Any] = {
                "temperature": self.config.temperature,
                "gradient_to": "keys",
                "candidates": everyone[:, view],
                "first_row": distribute.first_row(keys),
            }
            one_loss, hits = losses.in_batch_info_nce_with_accuracy(queries, keys, **where)
            loss.append(one_loss)
            accuracy.append(hits)
        return {
            "loss": tf.add_n(loss) / 2,
            "contrastive_accuracy": tf.add_n(accuracy) / 2,
            "nearest_neighbour_accuracy": self._same_label(places, batch["label"]),
            "queue_age": self.queue.age(),
            "embedding_std": losses.feature_std(outputs["embeddings"]),
            "feature_std": losses.feature_std(outputs["features"]),
        }

    def _same_label(self, places: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """How often a neighbour has its image's label, which unlabelled images have not."""
        found = tf.gather(self.queue.read_labels(), places)  # [2B]
        labels = tf.tile(tf.cast(labels, tf.int64), [2])
        same = tf.logical_and(tf.equal(found, labels), labels >= 0)
        return tf.reduce_mean(tf.cast(same, tf.float32))

    def after_update(self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]) -> None:
        """The first views' embeddings enter the queue at length 1."""
        first, _ = tf.split(outputs["embeddings"], 2)
        rows = tf.math.l2_normalize(first, axis=1)
        # The queue refuses rows that are not finite: those of a step that was not taken either.
        rows = tf.where(outputs["taken"], rows, float("nan"))
        self.queue.push(
            distribute.gather(rows, differentiable=False),
            distribute.gather(tf.cast(batch["label"], tf.int64), differentiable=False),
        )
