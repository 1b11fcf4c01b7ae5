"""DeepCluster: Deep Clustering for Unsupervised Learning of Visual Features.

Caron et al., 2018, arXiv:1807.05520.

The figure: before every epoch the network embeds all training images as they are; k-means on these
features (256 whitened principal components, scaled to length 1) gives every image a cluster. During
the epoch the network classifies augmented images into their clusters by cross entropy. As clusters
have no order, the classifier starts anew with each clustering. Images are drawn such that all
clusters come equally often.

Deviations: the encoder is a ResNet whose average-pooled features are clustered and classified, as
in ports of the method, in place of AlexNet or VGG-16 with two hidden layers (``proj_head_mode``
adds hidden layers, without dropout); training takes single crops of the paper's kind, and the
features those of evaluation, both on Sobel gradients (``--sobel``), as in the released code.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import evaluate, losses
from tfcontrast.config import option
from tfcontrast.errors import UserError
from tfcontrast.methods import shared_options
from tfcontrast.methods.base import Method, RunOver
from tfcontrast.methods.cluster_sampler import uniform_over_clusters
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.projection import ProjectionConfig, encode_views, make_projector
from tfcontrast.methods.supervised import FINETUNE_DEFAULTS, LINEAR_EVAL_DEFAULTS
from tfcontrast.models import Projector, kmeans, whiten
from tfcontrast.optim import Group

# Keeps these draws apart from others that start from the run's seed.
_CLUSTERS, _TOP_LAYER = 0x636C7573, 0x746F706C


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeepClusterConfig(ProjectionConfig):
    """DeepCluster's options; the defaults are the paper's."""

    proj_head_mode: str = shared_options.proj_head_mode("none")
    num_prototypes: int = shared_options.num_prototypes(10_000)
    pca_dim: int = option(
        256, "Whitened principal components that are clustered; at most the features' width.", low=1
    )
    kmeans_iterations: int = shared_options.kmeans_iterations(20)
    reassign_epochs: int = option(1, "Epochs from one clustering to the next.", low=1)

    # The released code's: SGD with a constant rate of 0.05 at a batch of 256, every parameter
    # decayed, crops and flips.
    DEFAULTS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pretrain": {
            "sobel": True,
            "augmentation": "crop_flip",
            "optimizer": "sgd",
            "learning_rate": 0.05,
            "learning_rate_schedule": "constant",
            "warmup_epochs": 0.0,
            "weight_decay": 1e-5,
            "decay_all": True,
            "train_batch_size": 256,
            "train_epochs": 200,
        },
        "linear_eval": LINEAR_EVAL_DEFAULTS,
        "finetune": FINETUNE_DEFAULTS,
    }
    DIGITS: ClassVar[Mapping[str, Any]] = {"num_prototypes": 100}


class DeepCluster(Method):
    """DeepCluster as a Keras model; see the module's docstring.

    Without ``begin_epoch`` no image has a cluster (-1), which the loss refuses: call it before
    ``fit`` where nothing else does.
    """

    Config = DeepClusterConfig
    num_views = 1
    reorders = True
    metric_names = (
        "loss",
        "cluster_accuracy",
        "cluster_use",
        "largest_cluster",
        "cluster_nmi",
        "feature_std",
    )

    def __init__(
        self,
        backbone: keras.Model,
        config: DeepClusterConfig | None = None,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        global_bn: bool = True,
    ) -> None:
        super().__init__(backbone, plan=plan, num_classes=num_classes)
        self.config = config or DeepClusterConfig()
        self.plan.need("num_examples", "batch_size", "steps_per_epoch", why="the table of clusters")
        images, count = self.plan.num_examples, self.config.num_prototypes
        if count > images:
            raise UserError(
                f"--num_prototypes must not exceed the {images} training images. Received: {count}"
            )
        self.projector = self.make_projector(self.config, global_bn=global_bn)
        self.top_layer = keras.layers.Dense(
            count,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            dtype="float32",
            name="top_layer",
        )
        self.clusters = self._state("clusters", [images], "int64", -1)
        self.clusterings_done = self._state("clusterings_done", [], "int64", 0)
        self.cluster_use = self._state("cluster_use", [], "float32", 0)
        self.largest_cluster = self._state("largest_cluster", [], "float32", 0)
        self.cluster_nmi = self._state("cluster_nmi", [], "float32", 0)

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
    def make_projector(cls, config: DeepClusterConfig, *, global_bn: bool = True) -> Projector:
        """The hidden layers between features and classifier; none by default."""
        return make_projector(config, global_bn=global_bn)

    def parameter_groups(self) -> Sequence[Group]:
        """The classifier lives for one epoch and has no momentum."""
        return (Group(layers=(self.top_layer,), momentum=0.0),)

    def begin_epoch(self, epoch: int, run_over: RunOver) -> None:
        """Clusters all images and starts the classifier anew, where it is time."""
        if epoch % self.config.reassign_epochs:
            return
        features = run_over(self.clustered_features)
        if not np.isfinite(features).all():
            raise UserError(
                "the features are not finite, so the images cannot be clustered; lower "
                "--learning_rate or set --clip_norm"
            )
        rows = whiten(features, self.config.pca_dim)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        seed = int(np.random.SeedSequence([self.plan.seed, _CLUSTERS, epoch]).generate_state(1)[0])
        found = kmeans(
            rows,
            self.config.num_prototypes,
            iterations=self.config.kmeans_iterations,
            seed=seed,
            empty="split",
        ).assignments
        if int(tf.convert_to_tensor(self.clusterings_done)):
            before = tf.convert_to_tensor(self.clusters).numpy()
            self.cluster_nmi.assign(evaluate.normalized_mutual_information(before, found))
        sizes = np.bincount(found, minlength=self.config.num_prototypes)
        self.clusters.assign(found)
        self.cluster_use.assign(np.mean(sizes > 0))
        self.largest_cluster.assign(sizes.max() / len(found))
        self.clusterings_done.assign_add(1)
        self._renew_top_layer(epoch)

    def _renew_top_layer(self, epoch: int) -> None:
        """Draws the classifier, N(0, 0.01) without bias, and forgets what the optimizer kept."""
        kernel, bias = self.top_layer.kernel, self.top_layer.bias
        draws = np.random.default_rng([self.plan.seed, _TOP_LAYER, epoch])
        kernel.assign(0.01 * draws.standard_normal(kernel.shape, np.float32))
        bias.assign(np.zeros(bias.shape, np.float32))
        own = self.top_layer.path.replace("/", "_")
        for slot in self.optimizer.variables:
            if own in slot.name:
                slot.assign(np.zeros(slot.shape, np.float32))

    def clustered_features(self, images: tf.Tensor) -> tf.Tensor:
        """What is clustered: [B, H, W, 3] in [0, 1] to float32 [B, D], in inference mode."""
        outputs = encode_views(self.backbone, self.projector, (images,), training=False)
        return tf.cast(outputs["embeddings"], tf.float32)

    def epoch_order(self, epoch: int) -> np.ndarray[Any, Any]:
        """Images of all clusters equally often."""
        return uniform_over_clusters(
            tf.convert_to_tensor(self.clusters).numpy(),
            self.plan.steps_per_epoch * self.plan.batch_size,
            seed=self.plan.seed,
            epoch=epoch,
        )

    def stuck_loss(self, batch_size: int) -> float | None:
        """The cross entropy of equal probabilities: log K."""
        return math.log(self.config.num_prototypes)

    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """One view [B, H, W, 3] to features [B, D] and scores of the clusters [B, K].

        The projector's last ReLU stands before the classifier and not in what is clustered.
        """
        seed = self.branch_seed(training)
        outputs = encode_views(self.backbone, self.projector, views, training, seed=seed)
        return {**outputs, "scores": self.top_layer(tf.nn.relu(outputs["embeddings"]))}

    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Cross entropy with the image's cluster."""
        targets = tf.gather(tf.convert_to_tensor(self.clusters), batch["index"])  # [B]
        hits = tf.equal(tf.argmax(outputs["scores"], axis=1), targets)
        return {
            "loss": losses.cross_entropy(outputs["scores"], targets),
            "cluster_accuracy": tf.reduce_mean(tf.cast(hits, tf.float32)),
            "cluster_use": tf.convert_to_tensor(self.cluster_use),
            "largest_cluster": tf.convert_to_tensor(self.largest_cluster),
            "cluster_nmi": tf.convert_to_tensor(self.cluster_nmi),
            "feature_std": losses.feature_std(outputs["features"]),
        }
