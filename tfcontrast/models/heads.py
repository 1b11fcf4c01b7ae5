"""The projector: from the backbone's features to the embeddings that the loss compares."""

from typing import Any

import keras
import tensorflow as tf

from tfcontrast.models.batch_norm import BatchNorm
from tfcontrast.models.perceptron import last_layer_policy, make_layer

MODES = ("none", "linear", "nonlinear")


@keras.saving.register_keras_serializable(package="tfcontrast")
class Projector(keras.Model):
    """g(h): nothing, one linear layer, or a perceptron (Chen et al., 2020, section 4.2).

    With batch norm (SimCLR) every layer is dense without bias, N(0, 0.01), and batch norm; all but
    the last end in a ReLU, and the last batch norm has a factor but no offset. Without
    (SupContrast) the layers have biases and are initialised as PyTorch's (uniform in +-1 /
    sqrt(fan-in); biases zero), with ReLUs between. The last layer computes in float32 under every
    policy but float64.

    Args:
        mode: ``none`` (z = h), ``linear`` (one layer) or ``nonlinear`` (``num_layers`` layers).
        num_layers: of ``nonlinear``.
        hidden_dim: width of the hidden layers; 0 for h's.
        output_dim: width of z; ``none`` keeps h's.
        batch_norm: which of the two kinds above.
        global_bn: take batch norm's statistics over all replicas.
        batch_norm_decay: what the moving statistics keep of their old value at each step.
        **kwargs: ``name`` and ``dtype``.

    Raises:
        ValueError: a value is not one of those above.
    """

    def __init__(
        self,
        *,
        mode: str = "nonlinear",
        num_layers: int = 2,
        hidden_dim: int = 0,
        output_dim: int = 128,
        batch_norm: bool = True,
        global_bn: bool = True,
        batch_norm_decay: float = 0.9,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", "projector")
        super().__init__(autocast=False, **kwargs)  # outputs()[0] is h itself
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}. Received: {mode!r}")
        for name, value, least in (
            ("num_layers", num_layers, 1),
            ("hidden_dim", hidden_dim, 0),
            ("output_dim", output_dim, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}. Received: {value}")
        self._config: dict[str, Any] = {
            "mode": mode,
            "num_layers": num_layers,
            "hidden_dim": hidden_dim,
            "output_dim": output_dim,
            "batch_norm": batch_norm,
            "global_bn": global_bn,
            "batch_norm_decay": batch_norm_decay,
        }
        self.dense_layers: list[keras.layers.Dense] = []
        self.norms: list[BatchNorm] = []

    @property
    def num_layers(self) -> int:
        """How many dense layers it has."""
        return int({"none": 0, "linear": 1}.get(self._config["mode"], self._config["num_layers"]))

    @property
    def embedding_dim(self) -> int:
        """Width of z; with ``mode="none"`` known once the model is built."""
        if self._config["mode"] != "none":
            return int(self._config["output_dim"])
        if not self.built:
            raise ValueError("mode='none' has h's width once it is built. Received: not built")
        return int(self._feature_dim)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the layers for features of this width."""
        self._feature_dim = width = input_shape[-1]
        config = self._config
        count = self.num_layers
        for i in range(1, count + 1):
            last = i == count
            units = config["output_dim"] if last else config["hidden_dim"] or input_shape[-1]
            dense, norm = self._make_layer(i, units, last)
            dense.build((None, width))
            self.dense_layers.append(dense)
            if norm is not None:
                norm.build((None, units))
                self.norms.append(norm)
            width = units

    def _make_layer(
        self, number: int, units: int, last: bool
    ) -> tuple[keras.layers.Dense, BatchNorm | None]:
        has_norm = self._config["batch_norm"]
        kernel_initializer: Any = keras.initializers.RandomNormal(stddev=0.01)
        if not has_norm:
            kernel_initializer = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform")
        norm = "scale" if last else "affine"
        return make_layer(
            number,
            units,
            use_bias=not has_norm,
            norm=norm if has_norm else "none",
            kernel_initializer=kernel_initializer,
            batch_norm_decay=self._config["batch_norm_decay"],
            global_bn=self._config["global_bn"],
            policy=last_layer_policy(self.dtype_policy) if last else self.dtype_policy,
        )

    def outputs(self, h: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """All layers' outputs: [h, after layer 1, ..., z].

        Args:
            h: features [B, D].
            training: whether batch norm uses the batch's statistics.
        """
        if not self.built:
            self.build(tuple(h.shape))
        results = [h]
        for i, dense in enumerate(self.dense_layers):
            x = dense(results[-1])
            if self.norms:
                x = self.norms[i](x, training=training)
            if i + 1 < len(self.dense_layers):
                x = tf.nn.relu(x)
            results.append(x)
        return results

    def call(self, h: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps features [B, D] to embeddings [B, d], not normalised."""
        return self.outputs(h, training)[-1]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        base = {"name": self.name, "dtype": keras.dtype_policies.serialize(self.dtype_policy)}
        return {**base, **self._config}
