"""A trained encoder as a SavedModel by the contract of TensorFlow Hub's reusable image models."""

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

METADATA_FILE = "metadata.json"


def save_hub_module(
    path: str,
    backbone: keras.Model,
    projector: keras.Model | None = None,
    *,
    extra_metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a SavedModel that can be called, fine-tuned and served without this package.

    The loaded object maps float32 images [B, H, W, 3] in [0, 1] of any size (for a vision
    transformer: of sides that are multiples of its patch's) to float32 features [B, D]:
    ``obj(images, training=False)``; ``training=True`` uses the batch's statistics and moves the
    moving ones, and drops no branches. It has ``variables``, ``trainable_variables`` (the
    backbone's, all reached by the features' gradients) and ``regularization_losses`` (none: weight
    decay is the optimizer's). Its signatures take ``images``:

    * ``serving_default``: ``features``, and ``projections`` if there is a projector;
    * ``features``: ``features``;
    * ``projections``: ``projections`` and ``hidden_1``, ``hidden_2``, ... (the projector's other
      layers).

    What is saved are copies that compute in float32 with local batch norm, whatever strategy and
    policy the models were trained under. Beside the graph stands ``metadata.json`` with the
    configuration. The folder appears at once when it is complete.

    Args:
        path: of the folder to make.
        backbone: a built model; ``call(images, training)`` gives the features, ``get_config``
            rebuilds it.
        projector: a built model with ``outputs(features, training)``, or None.
        extra_metadata: more entries of ``metadata.json``, JSON values.
        overwrite: replace an existing folder.

    Raises:
        FileExistsError: the folder exists and ``overwrite`` is False.
        ValueError: a model is not built, or a strategy's scope is open.
    """
    if tf.distribute.has_strategy():
        raise ValueError(
            "Export outside of the strategy's scope, a loaded module has one replica. Received: "
            f"{tf.distribute.get_strategy().num_replicas_in_sync} replicas"
        )
    path = path.rstrip("/")
    if tf.io.gfile.exists(path) and not overwrite:
        raise FileExistsError(f"{path} exists already; pass overwrite=True to replace it")
    metadata = _metadata(backbone, projector, extra_metadata or {})
    module, signatures = _make_module(
        _plain_copy(backbone), None if projector is None else _plain_copy(projector)
    )
    unfinished = f"{path}.unfinished-{uuid.uuid4().hex[:8]}"
    try:
        tf.saved_model.save(module, unfinished, signatures=signatures)
        with tf.io.gfile.GFile(f"{unfinished}/{METADATA_FILE}", "w") as file:
            file.write(metadata)
        _put_in_place(unfinished, path)
    finally:
        if tf.io.gfile.exists(unfinished):
            tf.io.gfile.rmtree(unfinished)


def _put_in_place(unfinished: str, path: str) -> None:
    """Renames the finished folder; an old one steps aside first and is deleted last."""
    old = f"{unfinished}.old"
    if tf.io.gfile.exists(path):
        tf.io.gfile.rename(path, old)
    tf.io.gfile.rename(unfinished, path)
    if tf.io.gfile.exists(old):
        tf.io.gfile.rmtree(old)


def _plain_copy(model: keras.Model) -> keras.Model:
    """The same network and weights in float32, with batch norm that knows no other replicas."""
    shape = (model.get_build_config() or {}).get("input_shape")
    if not model.built or shape is None:
        raise ValueError(f"Build the model before exporting it. Received: {model.name} (not built)")
    config = {**model.get_config(), "dtype": "float32"}
    for name, plain in (("global_bn", False), ("batch_norm_splits", 1), ("remat", False)):
        if name in config:
            config[name] = plain
    copy = type(model).from_config(config)
    copy.build((None,) * (len(shape) - 1) + (shape[-1],))
    copy.set_weights(model.get_weights())
    return copy


def _make_module(
    backbone: Any, projector: Any
) -> tuple[tf.train.Checkpoint, dict[str, Callable[..., Any]]]:
    """The object to save and its signatures.

    It is a bare ``Checkpoint`` that holds variables and functions and nothing of Keras.
    (``tf.Module`` would not do, its ``variables`` cannot be set.)
    """
    channels = backbone.get_build_config()["input_shape"][-1]
    images_spec = tf.TensorSpec([None, None, None, channels], tf.float32, name="images")

    def call(images: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.cast(backbone(images, training=training), tf.float32)

    def features(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"features": call(images)}

    def projections(images: tf.Tensor) -> dict[str, tf.Tensor]:
        *hidden, z = projector.outputs(call(images), training=False)[1:] or [call(images)]
        named = {f"hidden_{i}": layer for i, layer in enumerate(hidden, 1)}
        return {**named, "projections": tf.cast(z, tf.float32)}

    def both(images: tf.Tensor) -> dict[str, tf.Tensor]:
        h = call(images)
        return {"features": h, "projections": tf.cast(projector(h, training=False), tf.float32)}

    module = tf.train.Checkpoint()
    callable_ = tf.function(call)
    for training in (False, True):
        callable_.get_concrete_function(images_spec, training=training)
    callable_.get_concrete_function(images_spec)
    module.__call__ = callable_
    module.variables = [v.value for v in backbone.variables]
    module.trainable_variables = [v.value for v in backbone.trainable_variables]
    module.regularization_losses = []
    chosen = {"serving_default": features, "features": features}
    if projector is not None:
        module.projector_variables = [v.value for v in projector.variables]
        chosen = {"serving_default": both, "features": features, "projections": projections}
    signatures = {
        name: tf.function(function, input_signature=[images_spec])
        for name, function in chosen.items()
    }
    return module, signatures


def _metadata(
    backbone: keras.Model, projector: keras.Model | None, extra: Mapping[str, Any]
) -> str:
    """The configuration as JSON; made before anything is written, lest a bad entry spoil it."""
    entries = {
        "images": "float32 [batch, height, width, channels] in [0, 1]",
        "backbone": {"class": type(backbone).__name__, **backbone.get_config()},
        "feature_dim": backbone.feature_dim,
        "projector": None,
        "embedding_dim": None,
    }
    if projector is not None:
        entries["projector"] = {"class": type(projector).__name__, **projector.get_config()}
        entries["embedding_dim"] = projector.embedding_dim
    return json.dumps({**entries, **extra}, indent=2)
