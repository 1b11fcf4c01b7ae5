"""Perceptrons: the projectors and predictors of the methods after SimCLR."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcontrast.models.batch_norm import BatchNorm

ACTIVATIONS = {"relu": tf.nn.relu, "gelu": tf.nn.gelu}  # the exact GELU, by the error function
INITIALIZATIONS = ("torch", "trunc_normal")
# What a batch norm learns: whether an offset, whether a factor; "scale" is SimCLR's last one.
NORMS: dict[str, tuple[bool, bool] | None] = {
    "none": None,
    "affine": (True, True),
    "scale": (False, True),
    "plain": (False, False),
}


def last_layer_policy(policy: Any) -> str:
    """The policy of a head's last layer: float32 under every policy but float64's.

    Args:
        policy: the head's, or its name; None for Keras's default.
    """
    exact = keras.dtype_policies.get(policy).variable_dtype == "float64"
    return "float64" if exact else "float32"


def torch_uniform(fan_in: int) -> keras.initializers.Initializer:
    """A new initialiser with PyTorch's law for a linear layer: uniform in +-1 / sqrt(fan-in)."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)


def make_layer(
    number: int,
    units: int,
    *,
    use_bias: bool,
    norm: str,
    kernel_initializer: Any,
    bias_initializer: Any = "zeros",
    batch_norm_decay: float,
    global_bn: bool,
    policy: Any,
) -> tuple[keras.layers.Dense, BatchNorm | None]:
    """One layer of a head: a dense layer and what normalises it.

    Args:
        number: of the layer, from 1; part of its name.
        units: width.
        use_bias: of the dense layer.
        norm: a key of ``NORMS``.
        kernel_initializer: of the dense layer.
        bias_initializer: of the dense layer.
        batch_norm_decay: what the moving statistics keep of their old value at each step.
        global_bn: take batch norm's statistics over all replicas.
        policy: of both.
    """
    dense = keras.layers.Dense(
        units,
        use_bias=use_bias,
        kernel_initializer=kernel_initializer,
        bias_initializer=bias_initializer,
        name=f"dense{number}",
        dtype=policy,
    )
    learnt = NORMS[norm]
    if learnt is None:
        return dense, None
    center, scale = learnt
    return dense, BatchNorm(
        momentum=batch_norm_decay,
        center=center,
        scale=scale,
        synchronized=global_bn,
        name=f"norm{number}",
        dtype=policy,
    )


@keras.saving.register_keras_serializable(package="tfcontrast")
class Perceptron(keras.Model):
    """Layers of dense, batch norm and activation; the last without activation.

    As the sources have them (d the features' width):

    | head | widths | hidden bias, norm | output bias, norm |
    |---|---|---|---|
    | InstDisc, MoCo v1 | 128 | | yes, none |
    | MoCo v2, DenseCL | d, 128 | yes, none | yes, none |
    | MoCo v3, ResNet | 4096, 256 | no, affine | no, plain; predictor no, none |
    | MoCo v3, ViT | 4096, 4096, 256 | no, affine | no, plain; predictor 4096, 256 alike |
    | BYOL, both | 4096, 256 | yes, affine | no, none |
    | SimSiam, projector | 2048, 2048, 2048 | no, affine | no, plain |
    | SimSiam, predictor | 512, 2048 | no, affine | yes, none |
    | Barlow Twins | 8192, 8192, 8192 | no, affine | no, none |
    | VICReg | 8192, 8192, 8192 | yes, affine | no, none |
    | NNCLR, projector | 2048, 2048, 256 | yes, affine | yes, affine |
    | NNCLR, predictor | 4096, 256 | yes, affine | yes, none |
    | SwAV | 2048, 128 | yes, affine | yes, none |
    | DINO (GELU, trunc_normal) | 2048, 2048, 256 | yes, none | yes, none |

    The last layer computes in float32 under every policy but float64.

    Args:
        widths: of the layers; the last is the output's. 0 stands for the input's width.
        hidden_bias: whether all layers but the last have biases.
        hidden_norm: ``none``, ``affine`` (batch norm with factor and offset), ``scale`` (no
            offset) or ``plain`` (neither).
        output_bias: whether the last layer has biases.
        output_norm: as ``hidden_norm``, after the last layer.
        activation: ``relu`` or ``gelu``, after the norms of all layers but the last.
        initialization: ``torch`` (kernels and biases uniform in +-1 / sqrt(fan-in)) or
            ``trunc_normal`` (DINO: normal of deviation 0.02, which its code cuts a hundred
            deviations away; biases zero).
        global_bn: take batch norm's statistics over all replicas.
        batch_norm_decay: what the moving statistics keep of their old value at each step.
        **kwargs: ``name`` and ``dtype``.

    Raises:
        ValueError: a value is not one of those above.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int],
        hidden_bias: bool = False,
        hidden_norm: str = "affine",
        output_bias: bool = True,
        output_norm: str = "none",
        activation: str = "relu",
        initialization: str = "torch",
        global_bn: bool = True,
        batch_norm_decay: float = 0.9,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", "perceptron")
        super().__init__(autocast=False, **kwargs)  # outputs()[0] is x itself
        widths = tuple(widths)
        if not widths or min(widths) < 0:
            raise ValueError(f"widths must be one or more numbers from 0 up. Received: {widths}")
        for name, value, accepted in (
            ("hidden_norm", hidden_norm, tuple(NORMS)),
            ("output_norm", output_norm, tuple(NORMS)),
            ("activation", activation, tuple(ACTIVATIONS)),
            ("initialization", initialization, INITIALIZATIONS),
        ):
            if value not in accepted:
                raise ValueError(f"{name} must be one of {accepted}. Received: {value!r}")
        self._config: dict[str, Any] = {
            "widths": widths,
            "hidden_bias": hidden_bias,
            "hidden_norm": hidden_norm,
            "output_bias": output_bias,
            "output_norm": output_norm,
            "activation": activation,
            "initialization": initialization,
            "global_bn": global_bn,
            "batch_norm_decay": batch_norm_decay,
        }
        self.dense_layers: list[keras.layers.Dense] = []
        self.norms: list[BatchNorm | None] = []

    @property
    def num_layers(self) -> int:
        """How many dense layers it has."""
        return len(self._config["widths"])

    @property
    def embedding_dim(self) -> int:
        """Width of the output; where it is the input's, known once the model is built."""
        width = int(self._config["widths"][-1])
        if width == 0 and not self.built:
            raise ValueError("The input's width is known once it is built. Received: not built")
        return width or int(self.dense_layers[-1].units)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the layers for inputs of this width."""
        config = self._config
        width = input_shape[-1]
        for number, units in enumerate(config["widths"], 1):
            last = number == len(config["widths"])
            place = "output" if last else "hidden"
            torch = config["initialization"] == "torch"
            units = units or input_shape[-1]
            dense, norm = make_layer(
                number,
                units,
                use_bias=config[f"{place}_bias"],
                norm=config[f"{place}_norm"],
                kernel_initializer=(
                    torch_uniform(width) if torch else keras.initializers.RandomNormal(stddev=0.02)
                ),
                bias_initializer=torch_uniform(width) if torch else "zeros",
                batch_norm_decay=config["batch_norm_decay"],
                global_bn=config["global_bn"],
                policy=last_layer_policy(self.dtype_policy) if last else self.dtype_policy,
            )
            dense.build((None, width))
            if norm is not None:
                norm.build((None, units))
            self.dense_layers.append(dense)
            self.norms.append(norm)
            width = units

    def outputs(self, x: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """All layers' outputs: [x, after layer 1, ..., the embeddings].

        Args:
            x: [B, D].
            training: whether batch norm uses the batch's statistics.
        """
        if not self.built:
            self.build(tuple(x.shape))
        activate = ACTIVATIONS[self._config["activation"]]
        results = [x]
        for dense, norm in zip(self.dense_layers, self.norms, strict=True):
            x = dense(x)
            if norm is not None:
                x = norm(x, training=training)
            if dense is not self.dense_layers[-1]:
                x = activate(x)
            results.append(x)
        return results

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Maps [B, D] to [B, the last width], not normalised."""
        return self.outputs(x, training)[-1]

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, the last width]."""
        return (input_shape[0], self._config["widths"][-1] or input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        base = {"name": self.name, "dtype": keras.dtype_policies.serialize(self.dtype_policy)}
        return {**base, **self._config, "widths": list(self._config["widths"])}
