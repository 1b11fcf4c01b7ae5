"""``--train_mode=pretrain``: trains a method, measures its encoder, says what to do next."""

import pathlib
from typing import Any

import tensorflow as tf

from tfcontrast.config import Config
from tfcontrast.methods import Supervised
from tfcontrast.train import build, checkpoints, state
from tfcontrast.train.classify import measure_classifier
from tfcontrast.train.console import say
from tfcontrast.train.loop import train
from tfcontrast.train.measure import announce, measure_encoders


def pretrain(
    config: Config, folder: pathlib.Path, strategy: tf.distribute.Strategy
) -> dict[str, Any]:
    """Runs pretraining, evaluation or both, as ``--mode`` says.

    Args:
        config: the run's options.
        folder: the run's folder, opened.
        strategy: where it runs.

    Returns:
        What goes into ``result.json``.

    Raises:
        UserError: data, checkpoint or disk are not as the options say.
    """
    data = build.open_data(config)
    with strategy.scope():
        method = build.build_method(config, data)
    result: dict[str, Any] = {}
    if config.run.mode in ("train", "train_then_eval"):
        result["train"] = train(method, config, data, folder)
    else:
        found, _ = checkpoints.find_checkpoint(config.run.checkpoint or str(folder))
        checkpoints.restore(
            state.model_state(method),
            checkpoints.read_arrays(found),
            source=str(found),
            allow_missing=config.run.allow_missing,
        )
    if config.run.mode == "train":
        return result
    evaluation = data.evaluation
    if evaluation is None or not evaluation.num_classes or not data.whole_train.num_classes:
        say("no labelled evaluation split: nothing to measure")
        return result
    label = f"{config.run.method}, last step"
    records, text = measure_encoders(config, data, evaluation, method.embed, label)
    announce(
        f"{config.data.dataset}, {evaluation.split}: {evaluation.num_examples} images, in %", text
    )
    if isinstance(method, Supervised):
        records += measure_classifier(config, data, evaluation, method, label="classifier")
    result["evaluation"] = records
    return result
