"""What every method shares: one step, exact on any number of replicas, and a linear probe beside.

A method is a final subclass of :class:`Method`. It builds what its paper draws in ``__init__``,
runs the figure in ``call`` and returns named scalars from ``compute_losses``. What carries no
gradient, such as the embeddings of a slow copy, comes from ``targets``; ``after_update`` moves what
is not trained by gradients.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.config import MethodConfig
from tfcontrast.methods.bad_views import spoil_together
from tfcontrast.methods.micro_batch import step_gradients
from tfcontrast.methods.plan import Plan
from tfcontrast.methods.probe import train_probe
from tfcontrast.methods.shared_mean import SharedMean, finite_values
from tfcontrast.methods.train_function import InputWait, make_train_function
from tfcontrast.optim import Adam, Group, SkippingOptimizer, SummedOptimizer, variable_roles

RunOver: TypeAlias = Callable[[Callable[[tf.Tensor], tf.Tensor]], np.ndarray[Any, Any]]


class Method(keras.Model, abc.ABC):
    """A trainable method: a backbone, what the method adds to it, and one step.

    Trains by ``compile``/``fit`` under every strategy, the default one included. Make it,
    ``compile`` it and ``prepare`` it in the strategy's scope; the data set gives ``{"views": (view,
    ...), "label": [B], "index": [B]}`` of the global batch. When ``view_maker`` is set, it makes
    the views within the step, of the ``"images"`` and ``"counter"`` that are there instead.

    Args:
        backbone: [B, H, W, 3] images in [0, 1] to [B, D] features; has ``feature_dim``.
        plan: the numbers of the run; methods with schedules, queues or banks say what they need.
        num_classes: classes of the linear probe that trains beside on stop-gradient features; 0
            leaves it out.
        probe_learning_rate: Adam's learning rate for the probe.
    """

    Config: ClassVar[type[MethodConfig]]
    """The dataclass of the method's options."""

    metric_names: ClassVar[tuple[str, ...]]
    """Names of the scalars that ``compute_losses`` returns; ``"loss"`` is the first."""

    num_views: ClassVar[int] = 2

    least_batch: ClassVar[int] = 2
    """Images that a step needs over all replicas: negatives of each other, statistics of many."""

    needs_labels: ClassVar[bool] = False

    reorders: ClassVar[bool] = False
    """Whether ``epoch_order`` gives every epoch an order of its own."""

    takes_micro_batches: ClassVar[bool] = False
    """Whether all that ``targets`` and ``call`` return are rows, one for each image and view, and
    the loss takes the batch from them alone: see ``micro_batch.py``."""

    encoder_name: ClassVar[str] = "backbone"
    """The network that ``embed`` runs, as the state names it."""

    def __init__(
        self,
        backbone: keras.Model,
        *,
        plan: Plan | None = None,
        num_classes: int = 0,
        probe_learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(name=type(self).__name__.lower())
        self.backbone = backbone
        self.plan = plan or Plan()
        self.input_wait = InputWait()
        self.view_maker: Callable[..., tuple[tf.Tensor, ...]] | None = None
        self.probe: Any = None
        self.probe_optimizer: Any = None
        names = self.metric_names
        if num_classes:
            # From zero: a random start would take a number from the seed, and with it every layer
            # that is made later would start elsewhere than without a probe.
            self.probe = keras.layers.Dense(
                num_classes, kernel_initializer="zeros", dtype="float32", name="probe"
            )
            self.probe_optimizer = Adam(probe_learning_rate)
            names = (*names, "probe_loss", "probe_top1")
        self._trackers = {name: SharedMean(name=name) for name in names}

    @classmethod
    def make_projector(cls, config: Any, *, global_bn: bool = True) -> Any:
        """The projector that the options describe, not built; None for a method without one.

        Args:
            config: one of ``Config``.
            global_bn: take batch norm's statistics over all replicas.
        """
        del config, global_bn
        return None

    @abc.abstractmethod
    def call(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Runs the method's figure.

        Args:
            views: tensors [B, H, W, 3] in [0, 1], one a view.
            training: whether batch norm uses the batch's statistics.

        Returns:
            Named tensors, among them ``"features"`` [V * B, D], grouped by view.
        """

    def targets(self, views: Sequence[tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Runs what carries no gradient, before the tape: slow copies of the networks.

        Args:
            views: as ``call`` gets them.
            training: whether batch norm uses the batch's statistics.

        Returns:
            Named tensors, which ``compute_losses`` finds among its outputs.
        """
        del views, training
        return {}

    @abc.abstractmethod
    def compute_losses(
        self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]
    ) -> dict[str, tf.Tensor]:
        """Computes this replica's scalars, keyed as ``metric_names``.

        Their mean over the replicas is the global batch's value.

        Args:
            outputs: what ``targets`` and ``call`` returned, and ``"step"``, the number of steps
                before this one.
            batch: this replica's share of the global batch.
        """

    def after_update(self, outputs: Mapping[str, tf.Tensor], batch: Mapping[str, Any]) -> None:
        """Moves EMA copies, queues and centers after the update; most methods have none.

        ``outputs`` are those of ``compute_losses``, what it returned, and ``"taken"``, whether the
        optimizer took the step: a copy must not follow weights that stood still.

        What is taken from the batch (keys into a queue, means into a center) must not be taken when
        it is not finite: the step was skipped, and the state would carry NaN into the next ones.
        Decide by a value that is the same on every replica, after the gather or the sum.
        """
        del outputs, batch

    def stuck_loss(self, batch_size: int) -> float | None:
        """The loss of a collapsed solution, at which a training can get stuck.

        Args:
            batch_size: images of a step, over all replicas.

        Returns:
            The value; None where it is not known, or depends on the batch.
        """
        del batch_size
        return None

    def build(self, input_shape: Any = None) -> None:
        """Nothing of its own: the parts are built by the first call, in :meth:`prepare`."""
        self.built = True

    def begin_epoch(self, epoch: int, run_over: RunOver) -> None:
        """Does what happens between epochs, such as clustering; most methods have nothing to do.

        It is called in every process, outside of a step, before an epoch's first step; not when a
        run resumes within an epoch. What it finds out belongs into variables, after the last
        ``run_over``, in which a stop that is asked for breaks it off.

        Args:
            epoch: its number, from 0.
            run_over: applies a function, [B, H, W, 3] in [0, 1] to [B, D], to all training images
                as they are, in the order of their ``index``: float32 [num_examples, D].
        """
        del epoch, run_over

    def epoch_order(self, epoch: int) -> np.ndarray[Any, Any] | None:
        """The order of an epoch for methods that sample by their state; None: the usual one.

        Args:
            epoch: its number, from 0.

        Returns:
            int64 [steps_per_epoch * batch_size], an ``index`` for every row; a function of the
            state that ``begin_epoch`` left, so that a resumed run finds it again.
        """
        del epoch
        return None

    def initialize(self) -> None:
        """Sets what starts as a function of the built networks: slow copies start as copies."""

    def untrained_layers(self) -> Sequence[keras.Layer]:
        """Layers whose variables the main optimizer leaves alone although they are parameters.

        A slow copy keeps ``trainable=True``: without it its batch norm would be in inference mode.
        """
        return ()

    def parameter_groups(self) -> Sequence[Group]:
        """Variables that the main optimizer treats apart: frozen at first, or at another rate.

        Keras's own optimizers know no groups and treat all variables alike.
        """
        return ()

    def current_step(self) -> tf.Tensor:
        """Steps before this one, an int64 scalar; for ``targets`` and ``call``."""
        return tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.int64)

    def branch_seed(self, training: bool) -> tf.Tensor | None:
        """This step's seed for a network that drops branches, int32 [2]; None outside of training.

        Slow copies get none: they run whole.
        """
        return self.plan.step_seed(self.current_step()) if training else None

    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """The features that evaluators use: [B, H, W, 3] in [0, 1] to float32 [B, D]."""
        return tf.cast(getattr(self, self.encoder_name)(images, training=False), tf.float32)

    @property
    def encoder_variables(self) -> list[keras.Variable]:
        """What the main optimizer trains: everything but the probe and slow copies."""
        apart = [*self.untrained_layers(), *([self.probe] if self.probe else [])]
        left_out = {id(v) for layer in apart for v in layer.trainable_variables}
        return [v for v in self.trainable_variables if id(v) not in left_out]

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means that ``fit`` reports and resets every epoch."""
        return list(self._trackers.values())

    def prepare(self, image_size: int) -> None:
        """Creates every variable, the optimizers' too; call it in scope, after ``compile``."""
        views = (tf.zeros([2, image_size, image_size, 3]),) * self.num_views
        self.targets(views)
        outputs = self(views, training=False)
        self.initialize()
        if isinstance(self.optimizer, SummedOptimizer):
            self.optimizer.set_roles(variable_roles(self), self.parameter_groups())
        self.optimizer.build(self.encoder_variables)
        if self.probe is not None:
            self.probe(outputs["features"])
            self.probe_optimizer.build(self.probe.trainable_variables)

    def train_step(self, batch: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """One step on this replica's share of the global batch."""
        views = spoil_together(batch["views"])
        outputs, losses, gradients = step_gradients(self, views, batch)
        self.optimizer.apply_gradients(zip(gradients, self.encoder_variables, strict=True))
        if self.probe is not None:
            features = tf.stop_gradient(outputs["features"])
            own = train_probe(self.probe, self.probe_optimizer, features, batch["label"])
            losses = {**losses, **own}
        self.after_update({**losses, **outputs, "taken": self._taken()}, batch)
        return self._track(losses)

    def _taken(self) -> tf.Tensor:
        """Whether the optimizer took this step, a bool scalar."""
        if not isinstance(self.optimizer, SkippingOptimizer):
            return tf.constant(True)
        return tf.equal(tf.convert_to_tensor(self.optimizer.bad_steps_in_a_row), 0)

    def _track(self, losses: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Moves the running means by the global batch's values, in one small collective."""
        local = tf.stack([tf.cast(losses[name], tf.float32) for name in self._trackers])
        means = distribute.all_sum(local) / distribute.num_replicas()
        # Without a finite loss an accuracy is still a number, but of nothing.
        means = tf.where(tf.math.is_finite(means[0]), means, float("nan"))
        parts = (tf.unstack(part) for part in finite_values(means))
        for tracker, total, count in zip(self._trackers.values(), *parts, strict=True):
            tracker.add(total, count)
        return {name: tracker.result() for name, tracker in self._trackers.items()}

    def make_train_function(self, force: bool = False) -> None:
        """Builds the function that ``fit`` calls.

        Raises:
            ValueError: ``prepare`` was not called after ``compile``.
        """
        if getattr(self, "train_function", None) is None or force:
            self.train_function: Any = make_train_function(self)

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        """Nothing, since ``prepare`` builds everything; Keras's own fails under several workers."""
