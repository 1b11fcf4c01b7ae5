"""Vision transformers (Dosovitskiy et al., 2021) as DINO and MoCo v3 train them."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfcontrast.distribute import rows_in_batch
from tfcontrast.models.freezing import settle_frozen
from tfcontrast.models.remat import rematerialized
from tfcontrast.models.vit_block import INITIALIZATIONS, TransformerBlock, exact_dtype, layer_norm
from tfcontrast.models.vit_drop_path import drop_path_factors
from tfcontrast.models.vit_embedding import POSITIONS, PatchEmbedding, grid_sides

# width, depth, heads; small has 12 heads in MoCo v3.
SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
}
POOLINGS = ("cls", "average")


@keras.saving.register_keras_serializable(package="tfcontrast")
class VisionTransformer(keras.Model):
    """Images to features: patches, blocks of attention and perceptron, a norm, the [CLS] token.

    The network is DINO's and timm's (pre-norm, epsilon 1e-6, biases on query, key and value, a
    perceptron of four times the width with GELU). MoCo v3's is ``position_embedding="sincos"``,
    ``initialization="moco_v3"``, ``freeze_patch_embedding=True`` and 12 heads for ``small``.

    Args:
        size: ``tiny``, ``small`` or ``base``: width, depth and heads where those are 0.
        patch_size: side of a patch in pixels; divides every image's sides.
        image_size: side of the images that the position embeddings are for. Others can be passed,
            96 pixels beside 224 for instance: their positions are interpolated.
        width: channels of a token; 0 for the size's.
        depth: number of blocks; 0 for the size's.
        num_heads: divides the width; 0 for the size's.
        position_embedding: ``learned`` or ``sincos`` (fixed).
        pooling: ``cls``: the [CLS] token after the last norm. ``average``: there is no such token;
            the patches' mean, and the last norm after it.
        initialization: ``dino`` or ``moco_v3``, see ``dense_initializer`` and ``PatchEmbedding``.
        freeze_patch_embedding: no gradient reaches the patches' projection, and its variables are
            not trainable.
        drop_path_rate: probability of dropping each of the last block's branches; it grows linearly
            from 0 at the first block (stochastic depth). Needs ``seed`` in the call.
        input_mean: subtracted from the images' channels; None for 0.
        input_std: divides the images' channels; None for 1.
        remat: in training, keep each block's inputs alone for the gradient, and compute the rest
            again on the way back.
        **kwargs: ``name`` and ``dtype`` (a policy; under ``mixed_bfloat16`` norms, softmax, the
            tokens along the depth and the features are float32).

    Raises:
        UserError: the patch size does not divide the image size.
        ValueError: a value is not one of those above.
    """

    def __init__(
        self,
        *,
        size: str = "small",
        patch_size: int = 16,
        image_size: int = 224,
        width: int = 0,
        depth: int = 0,
        num_heads: int = 0,
        position_embedding: str = "learned",
        pooling: str = "cls",
        initialization: str = "dino",
        freeze_patch_embedding: bool = False,
        drop_path_rate: float = 0.0,
        input_mean: Sequence[float] | None = None,
        input_std: Sequence[float] | None = None,
        remat: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", "vision_transformer")
        super().__init__(autocast=False, **kwargs)  # the images are normalised in float32
        _check_choices(size, position_embedding, pooling, initialization)
        self._config: dict[str, Any] = {
            "size": size,
            "patch_size": patch_size,
            "image_size": image_size,
            "width": width,
            "depth": depth,
            "num_heads": num_heads,
            "position_embedding": position_embedding,
            "pooling": pooling,
            "initialization": initialization,
            "freeze_patch_embedding": freeze_patch_embedding,
            "drop_path_rate": drop_path_rate,
            "input_mean": None if input_mean is None else list(input_mean),
            "input_std": None if input_std is None else list(input_std),
            "remat": remat,
        }
        given = (width, depth, num_heads)
        self.feature_dim, self.depth, self.num_heads = (
            value or own for value, own in zip(given, SIZES[size], strict=True)
        )
        _check_numbers(patch_size, (self.feature_dim, self.depth, self.num_heads), drop_path_rate)
        self.embedding = self._make_embedding()
        self.blocks = [
            TransformerBlock(
                self.num_heads,
                initialization=initialization,
                name=f"block{i + 1}",
                dtype=self.dtype_policy,
            )
            for i in range(self.depth)
        ]
        self.norm = layer_norm("norm", exact_dtype(self))
        self.num_groups = self.depth

    @property
    def needs_seed(self) -> bool:
        """Whether it drops branches at random in training, and so takes ``seed`` and ``views``."""
        return bool(self._config["drop_path_rate"])

    def _make_embedding(self) -> PatchEmbedding:
        config = self._config
        return PatchEmbedding(
            self.feature_dim,
            patch_size=config["patch_size"],
            image_size=config["image_size"],
            positions=config["position_embedding"],
            class_token=config["pooling"] == "cls",
            frozen=config["freeze_patch_embedding"],
            initialization=config["initialization"],
            name="embedding",
            dtype=self.dtype_policy,
        )

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Makes the variables; only the number of channels matters."""
        channels = input_shape[-1]
        for name in ("input_mean", "input_std"):
            values = self._config[name]
            if values is not None and len(values) != channels:
                raise ValueError(f"{name} needs {channels} values. Received: {values}")
        self.embedding.build((None, None, None, channels))
        for layer in (*self.blocks, self.norm):
            layer.build((None, None, self.feature_dim))
        settle_frozen([self.embedding, *self.blocks, self.norm])

    def freeze(self, last_group: int) -> None:
        """Makes the embedding and the blocks up to this one untrainable.

        Args:
            last_group: 0 freezes the embedding alone, the depth the whole network, -1 nothing.

        Raises:
            ValueError: there is no such block.
        """
        if not -1 <= last_group <= self.depth:
            raise ValueError(
                f"last_group must be between -1 and {self.depth}. Received: {last_group}"
            )
        groups: list[keras.Layer] = [self.embedding, *self.blocks]
        for layer in groups[: last_group + 1]:
            layer.trainable = False
        if last_group == self.depth:
            self.norm.trainable = False

    def check_image_size(self, image_size: int) -> None:
        """Refuses a side that images cannot have, before they come: that of local views, say.

        Raises:
            UserError: it is not a multiple of the patch size.
        """
        grid_sides(image_size, self._config["patch_size"])

    def endpoints(
        self,
        images: tf.Tensor,
        training: bool = False,
        seed: tf.Tensor | None = None,
        views: int = 1,
    ) -> dict[str, tf.Tensor]:
        """All stages' outputs.

        Args:
            images: [B, H, W, 3] in [0, 1], H and W multiples of the patch size.
            training: whether branches may be dropped.
            seed: int32 or uint32 [2]; equal seeds drop the same branches. Without one nothing is
                dropped. It must change from step to step, and be the same on every replica.
            views: how many views the batch holds, one after another. An example's draws depend on
                the seed, the block, the branch, the view and the example's row in its view's global
                batch, so they are the same on any number of replicas.

        Returns:
            ``embedding`` and ``block1`` to ``block<depth>`` [B, N, D], [CLS] first where there is
            one, then the patches row by row; ``tokens``, the last of these after the last norm
            (``cls``) or before it (``average``); and ``features`` [B, D]; all in float32.

        Raises:
            UserError: the patch size does not divide the images' sides.
        """
        if not self.built:
            self.build(tuple(images.shape))
        x = images
        if self._config["input_mean"] is not None:
            x -= tf.constant(self._config["input_mean"], x.dtype)
        if self._config["input_std"] is not None:
            x /= tf.constant(self._config["input_std"], x.dtype)
        outputs = {"embedding": self.embedding(x)}
        x = outputs["embedding"]
        factors = None
        if training and seed is not None and self._config["drop_path_rate"]:
            rows = tf.shape(images)[0] // views
            factors = drop_path_factors(
                seed,
                rows_in_batch(rows),
                rate=self._config["drop_path_rate"],
                depth=self.depth,
                views=views,
            )
            factors = tf.cast(factors, x.dtype)
        for i, block in enumerate(self.blocks):
            own = None if factors is None or i == 0 else factors[i]
            if training and self._config["remat"]:
                x = rematerialized(block, x, factors=own)
            else:
                x = block(x, factors=own)
            outputs[block.name] = x
        if self._config["pooling"] == "cls":
            x = self.norm(x)
            features = x[:, 0]
        else:
            features = self.norm(tf.reduce_mean(x, 1))
        return {**outputs, "tokens": x, "features": features}

    def call(
        self,
        images: tf.Tensor,
        training: bool = False,
        seed: tf.Tensor | None = None,
        views: int = 1,
    ) -> tf.Tensor:
        """Maps images [B, H, W, 3] in [0, 1] to features [B, D]; see ``endpoints``."""
        return self.endpoints(images, training, seed, views)["features"]

    def compute_output_shape(self, input_shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """[B, D]."""
        return (input_shape[0], self.feature_dim)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        base = {"name": self.name, "dtype": keras.dtype_policies.serialize(self.dtype_policy)}
        return {**base, **self._config}


def _check_choices(size: str, position_embedding: str, pooling: str, initialization: str) -> None:
    for name, value, accepted in (
        ("size", size, tuple(SIZES)),
        ("position_embedding", position_embedding, POSITIONS),
        ("pooling", pooling, POOLINGS),
        ("initialization", initialization, INITIALIZATIONS),
    ):
        if value not in accepted:
            raise ValueError(f"{name} must be one of {accepted}. Received: {value!r}")


def _check_numbers(patch_size: int, shape: tuple[int, int, int], drop_path_rate: float) -> None:
    if patch_size < 1:
        raise ValueError(f"patch_size must be positive. Received: {patch_size}")
    width, depth, heads = shape
    if min(shape) < 1 or width % heads:
        raise ValueError(
            "width, depth and num_heads must be positive, the width a multiple of the heads. "
            f"Received: width={width}, depth={depth}, num_heads={heads}"
        )
    if not 0.0 <= drop_path_rate < 1.0:
        raise ValueError(f"drop_path_rate must be in [0, 1). Received: {drop_path_rate}")
