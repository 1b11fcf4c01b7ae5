"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments.

Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, 2020, arXiv:2006.09882.

The figure: all crops of an image, two large and several small ones, pass one backbone and one
projector; their unit embeddings are compared with trained prototypes of length 1, which gives
scores. The scores of a large crop in the whole batch, balanced over the prototypes by Sinkhorn's
iterations, are its code, a constant. From every other crop's scores the code must be predicted.
Balance is what keeps all images from one prototype.

A small batch cannot fill the prototypes evenly; a queue of past embeddings helps it. Its scores
with today's prototypes stand before the batch's in Sinkhorn's iterations, and their codes are
dropped.

Deviations: prototypes get their length after a step instead of before the next, which is the same
training and leaves a skipped step without a trace. The queue fills from the first step on, and its
use begins with an epoch; the released code starts to fill it then.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfcontrast import distribute, losses
from tfcontrast.config import option
from tfcontrast.errors import UserError
from tfcontrast.methods import shared_options
from tfcontrast.methods.base import Method
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.prototype_network import (
    LINEAR_DEFAULTS,
    NUM_ASSIGNING_VIEWS,
    PRETRAIN_DEFAULTS,
    PrototypeConfig,
    assigning_rows,
    encode_crops,
    make_prototype_projector,
    prototype_use,
)
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS
from tfcontrast.models import Perceptron, Prototypes, Queue
from tfcontrast.optim import Group


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwAVConfig(PrototypeConfig):
    """SwAV's options; the defaults are the paper's for batches of 4096, without a queue."""

    epsilon: float = option(
        0.05, "Sharpness of the codes, smaller is harder; 0.03 where all collapses.", low=1e-4
    )
    sinkhorn_iterations: int = option(3, "Sinkhorn's iterations.", low=1, high=1000)
    # One epoch at batch 4096; the released recipe for 256 has 5005.
    freeze_prototypes_steps: int = option(
        313, "First steps in which the prototypes stand still.", low=0
    )
    queue_size: int = shared_options.queue_size(0)
    queue_start_epoch: int = option(15, "First epoch in which the queue counts, once full.", low=0)

    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": PRETRAIN_DEFAULTS,
        "linear_eval": LINEAR_DEFAULTS,
        "finetune": FINETUNE_DEFAULTS,
    }
    # Sizes that fit the digits; chosen, not tuned.
    DIGITS: ClassVar[Mapping[str, Any]] = {
        "num_local_views": 0,
        "proj_hidden_dim": 256,
        "proj_out_dim": 64,
        "num_prototypes": 100,
        "freeze_prototypes_steps": 5,
    }


class SwAV(Method):
    """SwAV as a Keras model; see the module's docstring."""

    Config = SwAVConfig
    num_views = NUM_ASSIGNING_VIEWS
    metric_names = (
        "loss",
        "prototype_use",
        "code_entropy",
        "embedding_std",
        "feature_std",
        "queue_age",
    )

    def __init__(
        self,
        backbone: keras.Model,
        config: SwAVConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or SwAVConfig()
        self.projector = self.make_projector(self.config, global_bn=global_bn)
        self.prototypes = Prototypes(self.config.num_prototypes, name="prototypes")
        self.queues = self._make_queues()

    @classmethod
    def make_projector(cls, config: SwAVConfig, *, global_bn: bool = True) -> Perceptron:
        """The projector that the options describe."""
        return make_prototype_projector(config, global_bn=global_bn)

    def _make_queues(self) -> list[Queue]:
        """One for each full-size view; whole batches of rows, as in the released code."""
        asked, batch_size = self.config.queue_size, self.plan.batch_size
        if not asked:
            return []
        self.plan.need("batch_size", "steps_per_epoch", why="queue_size")
        if asked < batch_size:
            raise UserError(
                f"--queue_size must be 0 or at least --train_batch_size={batch_size}. "
                f"Received: {asked}"
            )
        # Every replica holds as many rows of the batch, and so of the queue too.
        size = asked // batch_size * batch_size
        return [
            Queue(size, self.config.proj_out_dim, seed=self.plan.seed + view, name=f"queue{view}")
            for view in range(NUM_ASSIGNING_VIEWS)
        ]

    def initialize(self) -> None:
        """Prototypes start with length 1."""
        self.prototypes.normalize()

    def parameter_groups(self) -> Sequence[Group]:
        """The prototypes, which wait until the features mean something."""
        steps = self.config.freeze_prototypes_steps
        return (Group(layers=(self.prototypes,), freeze_steps=steps),) if steps else ()

    def stuck_loss(self, batch_size: int) -> float | None:
        """The loss of scores that are all alike, near which it starts: log K."""
        return math.log(self.config.num_prototypes)

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """V crops to features [VB, D], unit embeddings [VB, d] and scores [V, B, K]."""
        seed = self.branch_seed(training)
        outputs = encode_crops(self.backbone, self.projector, views, training, seed=seed)
        scores = self.prototypes(outputs["embeddings"])
        return {**outputs, "scores": tf.reshape(scores, [len(views), -1, scores.shape[1]])}

    def codes(self, scores: tf.Tensor, view: int, step: tf.Tensor) -> tf.Tensor:
        """The codes of a full-size view's crops, constants.

        Args:
            scores: [B, K] of this replica's crops.
            view: 0 or 1.
            step: steps before this one.

        Returns:
            [B, K], rows that sum to 1.
        """
        options: dict[str, Any] = {
            "epsilon": self.config.epsilon,
            "iterations": self.config.sinkhorn_iterations,
        }
        alone = losses.sinkhorn(scores, **options)
        if not self.queues:
            return alone
        queue = self.queues[view]
        blocks = tf.reshape(queue.read(), [distribute.num_replicas(), -1, queue.dim])
        past = self.prototypes(tf.gather(blocks, distribute.replica_id()))
        joined = losses.sinkhorn(tf.concat([past, scores], 0), **options)[past.shape[0] :]
        # Both are computed at every step: XLA and collectives allow no choice between programs.
        begun = step >= self.config.queue_start_epoch * self.plan.steps_per_epoch
        return tf.where(begun & queue.is_full(), joined, alone)

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Equations 1 and 2 over all crops: the mean over the 2 (V - 1) pairs."""
        scores = tf.unstack(outputs["scores"])  # [B, K] each
        codes = [
            self.codes(scores[view], view, outputs["step"]) for view in range(NUM_ASSIGNING_VIEWS)
        ]
        all_codes = tf.concat(codes, 0)
        entropies = -tf.reduce_sum(tf.math.xlogy(all_codes, all_codes), axis=1)
        ages = [queue.age() for queue in self.queues]
        return {
            "loss": losses.swav_loss(scores, codes, temperature=self.config.temperature),
            "prototype_use": prototype_use(tf.concat(scores[:NUM_ASSIGNING_VIEWS], 0)),
            "code_entropy": tf.reduce_mean(entropies),
            "embedding_std": losses.feature_std(outputs["embeddings"]),
            "feature_std": losses.feature_std(outputs["features"]),
            "queue_age": tf.add_n(ages) / len(ages) if ages else tf.constant(0.0),
        }

    def after_update(self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]) -> None:
        """Gives moved prototypes length 1 again, and the queues this step's embeddings."""
        self.prototypes.normalize(outputs["taken"])
        if not self.queues:
            return
        rows = assigning_rows(outputs["embeddings"], outputs["scores"].shape[1])
        for queue, crops in zip(self.queues, rows, strict=True):
            queue.push(distribute.gather(crops, differentiable=False))
