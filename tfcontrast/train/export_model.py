"""``--mode=export``: a checkpoint's encoder as a SavedModel by the TF Hub contract."""

import pathlib
from typing import Any

import tensorflow as tf

from tfcontrast import export
from tfcontrast.config import Config
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS
from tfcontrast.train import checkpoints, state
from tfcontrast.train.console import say
from tfcontrast.train.encoder import build_backbone


def export_model(
    config: Config, folder: pathlib.Path, strategy: tf.distribute.Strategy
) -> dict[str, Any]:
    """Writes ``saved_model/`` into the run's folder; needs no data.

    Args:
        config: the options of the checkpoint.
        folder: where ``saved_model/`` goes.
        strategy: unused: an exported model is built on one device whatever trained it.

    Returns:
        Where it was written, and from which step.

    Raises:
        UserError: the checkpoint does not fit, or the folder cannot be written.
    """
    del strategy
    checkpoint, _ = checkpoints.find_checkpoint(config.run.checkpoint or config.run.model_dir)
    image_size = config.data.image_size
    cls = METHODS[config.run.method]
    arrays = state.as_backbone(checkpoints.read_arrays(checkpoint), cls.encoder_name)
    backbone = build_backbone(config, image_size)
    features = backbone(tf.zeros([2, image_size, image_size, 3]))
    named = dict(state.named_variables(backbone, "backbone"))
    projector = cls.make_projector(config.method, global_bn=config.model.global_bn)
    if not any(name.startswith("projector/") for name in arrays):
        projector = None
    if projector is not None:
        projector(features)
        named.update(state.named_variables(projector, "projector"))
    checkpoints.restore(named, arrays, source=str(checkpoint))
    target = folder / "saved_model"
    try:
        export.save_hub_module(str(target), backbone, projector, overwrite=True)
    except (OSError, tf.errors.OpError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{target} cannot be written: {reason}") from error
    say(f"wrote {target}: tf.saved_model.load it, or hub.KerasLayer(..., trainable=True)")
    return {
        "export": {
            "path": str(target),
            "checkpoint": checkpoint.name,
            "projections": projector is not None,
        }
    }
