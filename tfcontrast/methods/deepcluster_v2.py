"""DeepCluster-v2: classify every crop into the image's k-means cluster.

Caron et al., 2018, arXiv:1807.05520, in the version of Caron et al., SwAV, 2020, arXiv:2006.09882,
appendix.

The figure: all crops of an image pass one backbone and one projector to unit embeddings. Those of
the two large crops are kept in two banks, one row for each image. At the start of every epoch
spherical k-means clusters a bank, once for each head (heads take turns with the banks); a head's
centroids become its classifier, whose weights no gradient moves, and the clusters of all images its
labels. Every crop must be classified into its image's cluster in each head.

Deviations: before the first epoch the banks are filled from images as they are, one pass with the
batches' statistics in batch norm, where the released code takes views of the training; both banks
start alike, and the heads' clusterings differ by their seeds. A bank has a row for every image, so
that those which an epoch's last partial batch left out keep their older embedding; in the released
code they have no cluster for an epoch. Its first centroids are rows of one replica, here of all.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import distribute, evaluate, losses
from tfcontrast.config import option
from tfcontrast.errors import UserError
from tfcontrast.methods import shared_options
from tfcontrast.methods.base import Method, RunOver
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.prototype_network import (
    LINEAR_DEFAULTS,
    NUM_ASSIGNING_VIEWS,
    PRETRAIN_DEFAULTS,
    PrototypeConfig,
    assigning_rows,
    encode_crops,
    make_prototype_projector,
)
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS
from tfcontrast.models import MemoryBank, Perceptron, kmeans, still_statistics

# The label of an image without a cluster.
UNKNOWN = -100


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepClusterV2Config(PrototypeConfig):
    """DeepCluster-v2's options; the defaults are the paper's."""

    num_clusterings: int = option(3, "Heads, each with a clustering of its own.", low=1, high=64)
    kmeans_iterations: int = shared_options.kmeans_iterations(10)

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
    }


class DeepClusterV2(Method):
    """DeepCluster-v2 as a Keras model; see the module's docstring.

    Without ``begin_epoch`` no image has a cluster, and the loss is 0: call it before ``fit`` where
    nothing else does.
    """

    Config = DeepClusterV2Config
    num_views = NUM_ASSIGNING_VIEWS
    metric_names = (
        "loss",
        "cluster_accuracy",
        "cluster_use",
        "cluster_nmi",
        "embedding_std",
        "feature_std",
    )

    def __init__(
        self,
        backbone: keras.Model,
        config: DeepClusterV2Config | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or DeepClusterV2Config()
        self.plan.need("num_examples", why="the bank of embeddings")
        images, dim = self.plan.num_examples, self.config.proj_out_dim
        count, heads = self.config.num_prototypes, self.config.num_clusterings
        if count > images:
            raise UserError(
                f"--num_prototypes must not exceed the {images} training images. Received: {count}"
            )
        self.projector = self.make_projector(self.config, global_bn=global_bn)
        self.banks = [
            MemoryBank(images, dim, seed=self.plan.seed + view, name=f"bank{view}")
            for view in range(NUM_ASSIGNING_VIEWS)
        ]
        self.centroids = self._state("centroids", [heads, count, dim], "float32", 0)
        self.clusters = self._state("clusters", [heads, images], "int64", UNKNOWN)
        self.clusterings_done = self._state("clusterings_done", [], "int64", 0)
        self.cluster_nmi = self._state("cluster_nmi", [], "float32", 0)
        self.cluster_use = self._state("cluster_use", [], "float32", 0)

    def _state(self, name: str, shape: list[int], dtype: str, value: int) -> keras.Variable:
        """A variable that only ``begin_epoch`` changes, the same on every replica."""
        return self.add_weight(
            shape=shape,
            initializer=keras.initializers.Constant(value),
            dtype=dtype,
            trainable=False,
            autocast=False,
            aggregation="none",
            name=name,
        )

    @classmethod
    def make_projector(cls, config: DeepClusterV2Config, *, global_bn: bool = True) -> Perceptron:
        """The projector that the options describe."""
        return make_prototype_projector(config, global_bn=global_bn)

    def begin_epoch(self, epoch: int, run_over: RunOver) -> None:
        """Clusters the banks; fills them first if this is the first time."""
        first = int(tf.convert_to_tensor(self.clusterings_done)) == 0
        if first:
            with still_statistics():
                # A function of its own, so that no trace of it is used again.
                rows = run_over(lambda images: self._embed_batch(images))
            everyone = tf.range(self.plan.num_examples, dtype=tf.int64)
            for bank in self.banks:
                bank.update(everyone, tf.constant(rows), momentum=0.0)
        banks = [bank.read().numpy() for bank in self.banks]
        found = [
            kmeans(
                banks[head % NUM_ASSIGNING_VIEWS],
                self.config.num_prototypes,
                iterations=self.config.kmeans_iterations,
                seed=self._seed(epoch, head),
                spherical=True,
                empty="keep",
            )
            for head in range(self.config.num_clusterings)
        ]
        before = tf.convert_to_tensor(self.clusters).numpy()
        after = np.stack([head.assignments for head in found])
        self.centroids.assign(np.stack([head.centroids for head in found]))
        self.clusters.assign(after)
        self.cluster_use.assign(
            np.mean([len(np.unique(row)) / self.config.num_prototypes for row in after])
        )
        if not first:
            pairs = zip(before, after, strict=True)
            nmi = [evaluate.normalized_mutual_information(old, new) for old, new in pairs]
            self.cluster_nmi.assign(np.mean(nmi))
        self.clusterings_done.assign_add(1)

    def _seed(self, epoch: int, head: int) -> int:
        """Of a k-means: another for each epoch and head."""
        draws = np.random.SeedSequence([self.plan.seed, epoch, head])
        return int(draws.generate_state(1)[0])

    def _embed_batch(self, images: tf.Tensor) -> tf.Tensor:
        """Embeddings by the batch's own statistics: an untrained network has no others."""
        return encode_crops(self.backbone, self.projector, [images], training=True)["embeddings"]

    def stuck_loss(self, batch_size: int) -> float | None:
        """The loss of scores that are all alike: log K."""
        return math.log(self.config.num_prototypes)

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """V crops to features [VB, D], unit embeddings [VB, d] and scores [heads, VB, K]."""
        seed = self.branch_seed(training)
        outputs = encode_crops(self.backbone, self.projector, views, training, seed=seed)
        centroids = tf.convert_to_tensor(self.centroids)
        scores = tf.einsum("rd,hkd->hrk", outputs["embeddings"], centroids)
        return {**outputs, "scores": scores}

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Mean cross entropy of all crops and heads; images without a cluster do not count."""
        scores = tf.unstack(outputs["scores"])  # [VB, K] each
        table = tf.convert_to_tensor(self.clusters)
        targets = tf.unstack(tf.gather(table, batch["index"], axis=1))  # [B] each
        return {
            "loss": losses.cluster_cross_entropy(
                scores, targets, temperature=self.config.temperature
            ),
            "cluster_accuracy": _accuracy(scores, targets),
            "cluster_use": tf.convert_to_tensor(self.cluster_use),
            "cluster_nmi": tf.convert_to_tensor(self.cluster_nmi),
            "embedding_std": losses.feature_std(outputs["embeddings"]),
            "feature_std": losses.feature_std(outputs["features"]),
        }

    def after_update(self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]) -> None:
        """The banks take this step's embeddings of the full-size crops."""
        index = tf.cast(batch["index"], tf.int32)  # TPUs do not sum int64
        everyone = tf.cast(distribute.gather(index, differentiable=False), tf.int64)
        rows = assigning_rows(outputs["embeddings"], batch["index"].shape[0])
        for bank, crops in zip(self.banks, rows, strict=True):
            bank.update(everyone, distribute.gather(crops, differentiable=False), momentum=0.0)


def _accuracy(scores: Sequence[tf.Tensor], targets: Sequence[tf.Tensor]) -> tf.Tensor:
    """The share of crops whose largest score is their cluster's, over all heads."""
    hits = [
        tf.equal(tf.argmax(rows, axis=1), tf.tile(known, [rows.shape[0] // known.shape[0]]))
        for rows, known in zip(scores, targets, strict=True)
    ]
    return tf.reduce_mean(tf.cast(tf.stack(hits), tf.float32))
