"""Batch normalisation with one collective per direction and fused kernels."""

from typing import Any

import keras
import tensorflow as tf

from tfcontrast.distribute import all_sum, num_replicas
from tfcontrast.models.still_statistics import statistics_stand_still


@keras.saving.register_keras_serializable(package="tfcontrast")
class BatchNorm(keras.layers.Layer):
    """Batch normalisation (Ioffe and Szegedy, 2015) over all axes but the last, and replicas.

    It differs from ``keras.layers.BatchNormalization`` in three ways. The defaults are those of the
    field's ResNets (moving statistics keep 0.9 of the old value, epsilon is 1e-5). The moving
    variance takes the unbiased variance, as PyTorch does. And the kernels are TensorFlow's fused
    ones, which Keras 3 never uses; replicas exchange three numbers per channel in one collective on
    the way forward, and two on the way back.

    Statistics and parameters are float32 under every dtype policy except float64's, where they are
    float64. With several replicas all must hold equally many rows. With ``trainable = False`` the
    layer is in inference mode. A batch whose statistics are not finite leaves the moving ones as
    they were, on every replica.

    Args:
        momentum: what the moving statistics keep of their old value at each training step.
        epsilon: added to the variance.
        center: learn an offset (beta).
        scale: learn a factor (gamma).
        gamma_initializer: of the factor.
        synchronized: take mean and variance over all replicas' rows. Otherwise each replica
            normalises by its own, and the moving statistics are the replicas' average, so that they
            stay the same on every replica.
        splits: in training, normalise this many groups of the global batch, each of rows that
            follow each other, by their own statistics, as that many devices would ("Ghost" batch
            norm, Hoffer et al., 2017; MoCo's SplitBatchNorm). The moving statistics are the groups'
            average. It must divide the batch and be a multiple of the replicas. From 2 on
            ``synchronized`` is of no effect.
        **kwargs: ``name`` and ``dtype``.
    """

    def __init__(
        self,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        center: bool = True,
        scale: bool = True,
        gamma_initializer: Any = "ones",
        synchronized: bool = True,
        splits: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1]. Received: {momentum}")
        if epsilon <= 0:
            raise ValueError(f"epsilon must be positive. Received: {epsilon}")
        if splits < 1:
            raise ValueError(f"splits must be positive. Received: {splits}")
        self.momentum = momentum
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.synchronized = synchronized
        self.splits = splits

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables, in PyTorch's order: gamma, beta, moving mean, moving variance."""
        if len(input_shape) not in (2, 4) or input_shape[-1] is None:
            raise ValueError(
                "BatchNorm takes [batch, channels] or [batch, height, width, channels], channels "
                f"known. Received: {tuple(input_shape)}"
            )
        gamma = self._add_statistic("gamma", input_shape[-1], self.gamma_initializer, self.scale)
        beta = self._add_statistic("beta", input_shape[-1], "zeros", self.center)
        self.gamma = gamma if self.scale else None
        self.beta = beta if self.center else None
        self.moving_mean = self._add_statistic("moving_mean", input_shape[-1], "zeros", True, False)
        self.moving_variance = self._add_statistic(
            "moving_variance", input_shape[-1], "ones", True, False
        )

    def _add_statistic(
        self, name: str, channels: int, initializer: Any, wanted: bool, trainable: bool = True
    ) -> Any:
        if not wanted:
            return None
        return self.add_weight(
            shape=(channels,),
            initializer=initializer,
            name=name,
            trainable=trainable,
            autocast=False,
            dtype="float64" if self.variable_dtype == "float64" else "float32",
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Normalises.

        Args:
            inputs: [batch, channels] or [batch, height, width, channels].
            training: by the batch's statistics, and move the moving ones; else by the moving ones.

        Returns:
            As the inputs, in their dtype.
        """
        x = inputs[:, None, None] if inputs.shape.rank == 2 else inputs
        moving_mean = tf.convert_to_tensor(self.moving_mean)
        moving_variance = tf.convert_to_tensor(self.moving_variance)
        ones, zeros = tf.ones_like(moving_mean), tf.zeros_like(moving_mean)
        gamma = ones if self.gamma is None else tf.convert_to_tensor(self.gamma)
        beta = zeros if self.beta is None else tf.convert_to_tensor(self.beta)
        if not training or not self.trainable:
            y = _apply(x, gamma, beta, moving_mean, moving_variance, self.epsilon)
        else:
            replicas, moves = num_replicas(), not statistics_stand_still()
            if replicas > 1 and self.synchronized and self.splits == 1:
                y, mean, variance = _normalize_together(x, gamma, beta, moving_mean, self.epsilon)
            else:
                groups = _local_groups(x, self.splits, replicas)
                y, mean, variance = _normalize_groups(x, gamma, beta, self.epsilon, groups)
                if replicas > 1 and moves:
                    statistics = tf.stop_gradient(tf.stack([mean, variance]))
                    mean, variance = tf.unstack(all_sum(statistics) / replicas)
            if moves:
                self._move(moving_mean, moving_variance, mean, variance)
        return y[:, 0, 0] if inputs.shape.rank == 2 else y

    def _move(
        self,
        moving_mean: tf.Tensor,
        moving_variance: tf.Tensor,
        mean: tf.Tensor,
        variance: tf.Tensor,
    ) -> None:
        """Moves the moving statistics towards the batch's, which are the same on every replica."""
        step = 1.0 - self.momentum
        mean, variance = tf.stop_gradient(mean), tf.stop_gradient(variance)
        finite = tf.reduce_all(tf.math.is_finite(tf.stack([mean, variance])))
        moved_mean = moving_mean + step * (mean - moving_mean)
        moved_variance = moving_variance + step * (variance - moving_variance)
        self.moving_mean.assign(tf.where(finite, moved_mean, moving_mean))
        self.moving_variance.assign(tf.where(finite, moved_variance, moving_variance))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs' shape."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "synchronized": self.synchronized,
            "splits": self.splits,
        }


def _normalize_together(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, shift: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises by the statistics of all replicas' rows.

    Each replica sends its mean, its mean's square and its variance. The variance is the average of
    the replicas' variances and the variance of their means; the means are sent as distances from
    ``shift`` (the moving mean, the same everywhere), so that the difference of squares does not
    cancel when a channel's mean is large.

    Returns:
        The normalised x, the mean and the unbiased variance; only the first has a gradient.
    """
    replicas = num_replicas()
    rows = tf.cast(tf.size(x) // x.shape[-1], shift.dtype)
    count = rows * replicas

    @tf.custom_gradient
    def normalize(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        _, local_mean, local_variance = _normalize_alone(x, gamma, beta, epsilon)
        local_variance *= (rows - 1.0) / rows
        distance = local_mean - shift
        sums = all_sum(tf.stack([distance, tf.square(distance), local_variance]))
        distance, square, variance = tf.unstack(sums / replicas)
        mean = shift + distance
        variance += tf.maximum(square - tf.square(distance), 0.0)

        def gradient(dy: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            dx, dgamma, dbeta = _apply_gradients(dy, x, gamma, mean, variance, epsilon)
            through_scale, through_mean = tf.unstack(all_sum(tf.stack([dgamma, dbeta])) / count)
            slope = -gamma * tf.math.rsqrt(variance + epsilon)
            dx += _apply(x, slope * through_scale, slope * through_mean, mean, variance, epsilon)
            return dx, dgamma, dbeta

        y = _apply(x, gamma, beta, mean, variance, epsilon)
        return (y, mean, variance * count / tf.maximum(count - 1.0, 1.0)), gradient

    return normalize(x, gamma, beta)


def _local_groups(x: tf.Tensor, splits: int, replicas: int) -> int:
    """How many of the global batch's groups are this replica's rows."""
    if splits == 1:
        return 1
    groups, rows = splits // replicas, x.shape[0]
    if splits % replicas or (rows is not None and rows % groups):
        raise ValueError(
            "splits must be a multiple of the replicas and divide the batch. Received: "
            f"splits={splits} with {replicas} replicas of {rows} rows"
        )
    return groups


def _normalize_groups(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float, groups: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises groups of rows by themselves: all rows, and the averages of their statistics."""
    if groups == 1:
        return _normalize_alone(x, gamma, beta, epsilon)
    parts = [_normalize_alone(part, gamma, beta, epsilon) for part in tf.split(x, groups)]
    rows, means, variances = zip(*parts, strict=True)
    return tf.concat(rows, 0), tf.add_n(means) / groups, tf.add_n(variances) / groups


def _normalize_alone(
    x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Normalises by these rows alone: the normalised x, the mean, the unbiased variance."""
    if x.dtype == tf.float64:  # has no fused kernel
        mean, variance = tf.nn.moments(x, [0, 1, 2])
        rows = tf.cast(tf.size(x) // x.shape[-1], x.dtype)
        unbiased = variance * rows / tf.maximum(rows - 1.0, 1.0)
        return _apply(x, gamma, beta, mean, variance, epsilon), mean, unbiased
    nothing = tf.zeros([0], gamma.dtype)
    results = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=nothing, variance=nothing, epsilon=epsilon
    )
    return results.y, results.batch_mean, results.batch_variance


def _apply(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
) -> tf.Tensor:
    """``gamma (x - mean) / sqrt(variance + epsilon) + beta``."""
    if x.dtype == tf.float64:
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon)
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=gamma,
        offset=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=False,
    ).y


def _apply_gradients(
    dy: tf.Tensor,
    x: tf.Tensor,
    gamma: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    epsilon: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The gradients of ``_apply`` for x, gamma and beta, mean and variance being constants."""
    if x.dtype == tf.float64:
        inverse = tf.math.rsqrt(variance + epsilon)
        dgamma = tf.reduce_sum(dy * (x - mean) * inverse, [0, 1, 2])
        return dy * gamma * inverse, dgamma, tf.reduce_sum(dy, [0, 1, 2])
    results = tf.raw_ops.FusedBatchNormGradV3(
        y_backprop=dy,
        x=x,
        scale=gamma,
        reserve_space_1=mean,
        reserve_space_2=variance,
        reserve_space_3=tf.zeros([0], gamma.dtype),
        epsilon=epsilon,
        is_training=False,
    )
    return results.x_backprop, results.scale_backprop, results.offset_backprop
