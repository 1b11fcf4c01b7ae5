"""Output layers whose weights have a fixed length: DINO's last layer and SwAV's prototypes."""

from typing import Any

import keras
import tensorflow as tf

from tfcontrast.models.perceptron import last_layer_policy, torch_uniform


@keras.saving.register_keras_serializable(package="tfcontrast")
class WeightNormDense(keras.layers.Layer):
    """A bias-free linear layer with normalised weights, ``x v / |v| g`` (DINO's last layer).

    Weight normalisation is Salimans and Kingma's (2016), for every output on its own. Both v and g
    are variables, so a moving average of this layer averages v and g, and not their product. v
    starts as PyTorch's linear layers do, g at 1. g has rank 2, so that a trained g decays like a
    weight, as in DINO's code.

    It computes in float32 under every policy but float64.

    Args:
        units: outputs.
        train_gain: train g (DINO's ``norm_last_layer=False``); otherwise it stays at 1, and the
            outputs of unit inputs lie in [-1, 1].
        dtype: a policy; all but float64's mean float32.
        **kwargs: ``name``.

    Raises:
        ValueError: units is not positive.
    """

    def __init__(
        self, units: int, *, train_gain: bool = False, dtype: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(dtype=last_layer_policy(dtype), **kwargs)
        _check_units(units)
        self.units = units
        self.train_gain = train_gain

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes v [D, units] and g [1, units]."""
        self.direction = self.add_weight(
            shape=(input_shape[-1], self.units),
            initializer=torch_uniform(input_shape[-1]),
            name="direction",
        )
        self.gain = self.add_weight(
            shape=(1, self.units), initializer="ones", trainable=self.train_gain, name="gain"
        )

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps [B, D] to [B, units]."""
        direction = tf.convert_to_tensor(self.direction)
        # After the product: no second matrix of D * units is kept for the gradient.
        length = tf.norm(direction, axis=0, keepdims=True)
        return tf.matmul(x, direction) * (tf.convert_to_tensor(self.gain) / length)

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, units]."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "units": self.units, "train_gain": self.train_gain}


@keras.saving.register_keras_serializable(package="tfcontrast")
class Prototypes(keras.layers.Layer):
    """Scores against prototypes, ``x C``: a bias-free linear layer (SwAV, DeepCluster-v2).

    The columns of C are the prototypes; ``normalize`` gives them unit length. It computes in
    float32 under every policy but float64.

    Args:
        count: number of prototypes.
        dtype: a policy; all but float64's mean float32.
        **kwargs: ``name``.

    Raises:
        ValueError: there is no prototype.
    """

    def __init__(self, count: int, *, dtype: Any = None, **kwargs: Any) -> None:
        super().__init__(dtype=last_layer_policy(dtype), **kwargs)
        _check_units(count)
        self.count = count

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes C [D, count], as PyTorch starts a linear layer: not yet normalised."""
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.count),
            initializer=torch_uniform(input_shape[-1]),
            name="kernel",
        )

    def normalize(self, wanted: bool | tf.Tensor = True) -> None:
        """Scales every prototype to length 1 in place, as SwAV does between two steps.

        Args:
            wanted: a bool scalar; without it the prototypes keep their very bits, which scaling
                them once more would round.
        """
        kernel = tf.convert_to_tensor(self.kernel)
        self.kernel.assign(tf.where(wanted, tf.math.l2_normalize(kernel, 0), kernel))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Maps embeddings [B, D] to scores [B, count]: cosines, when both are normalised."""
        return tf.matmul(x, tf.convert_to_tensor(self.kernel))

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, count]."""
        return (*input_shape[:-1], self.count)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "count": self.count}


def _check_units(units: int) -> None:
    if units < 1:
        raise ValueError(f"There must be at least one output. Received: {units}")
