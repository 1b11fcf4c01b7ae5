"""``--train_mode=linear_eval`` and ``finetune``: a classifier on a pretrained encoder."""

import pathlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast import evaluate
from tfcontrast.config import Config
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS, Supervised
from tfcontrast.methods.supervised import FROZEN_ENCODER, SupervisedConfig
from tfcontrast.train import build, checkpoints, state
from tfcontrast.train.console import percent, say, table
from tfcontrast.train.encoder import build_backbone
from tfcontrast.train.loop import train


def classify(
    config: Config, folder: pathlib.Path, strategy: tf.distribute.Strategy
) -> dict[str, Any]:
    """Trains the classifier, measures it, or both, as ``--mode`` says.

    Args:
        config: the run's options; the encoder's are those of its checkpoint.
        folder: the run's folder, opened.
        strategy: where it runs.

    Returns:
        What goes into ``result.json``.

    Raises:
        UserError: data, checkpoint or disk are not as the options say.
    """
    data = build.open_data(config)
    if config.evaluation.linear_protocol == "lbfgs" and config.run.train_mode == "linear_eval":
        return {"evaluation": _logistic_regression(config, data)}
    with strategy.scope():
        method = build_classifier(config, data)
    trains = config.run.mode in ("train", "train_then_eval")
    if trains:
        found, _ = checkpoints.find_checkpoint(config.run.checkpoint)
        _restore_encoder(method, found, config)
    result: dict[str, Any] = {"train": train(method, config, data, folder)} if trains else {}
    if not trains:
        found, _ = checkpoints.find_checkpoint(config.run.checkpoint or str(folder))
        checkpoints.restore(
            state.model_state(method), checkpoints.read_arrays(found), source=str(found)
        )
    if config.run.mode != "train":
        result["evaluation"] = measure_classifier(
            config, data, data.labelled_evaluation(), method, label=config.run.train_mode
        )
    return result


def build_classifier(config: Config, data: build.RunData) -> Supervised:
    """The classifier on the checkpoint's encoder, compiled; call it in the strategy's scope."""
    keras.utils.set_random_seed(config.run.seed)
    options = config.evaluation
    frozen = (
        FROZEN_ENCODER if config.run.train_mode == "linear_eval" else options.fine_tune_after_block
    )
    layers = options.ft_proj_selector if config.run.train_mode == "finetune" else 0
    projector = None
    if layers:
        projector = METHODS[config.run.method].make_projector(
            config.method, global_bn=config.model.global_bn
        )
        if projector is None:
            raise UserError(
                f"--ft_proj_selector={layers}: --method={config.run.method} has no projector"
            )
        if layers > projector.num_layers:
            raise UserError(
                f"--ft_proj_selector={layers}: the projector has {projector.num_layers} layers"
            )
    backbone = build_backbone(config, data.image_size)
    if frozen > backbone.num_groups:
        raise UserError(
            f"--fine_tune_after_block must be at most {backbone.num_groups} with "
            f"--backbone={config.model.backbone}. Received: {frozen}"
        )
    method = Supervised(
        backbone,
        config.method if isinstance(config.method, SupervisedConfig) else None,
        num_classes=data.train.num_classes,
        plan=build.make_plan(config, data),
        projector=projector,
        projector_layers=layers,
        frozen_groups=frozen,
        zero_init=options.zero_init_logits_layer,
    )
    build.compile_method(method, config, data)
    return method


def _restore_encoder(method: Supervised, checkpoint: pathlib.Path, config: Config) -> None:
    parts = ("backbone/", "projector/")
    encoder = {name: v for name, v in state.model_state(method).items() if name.startswith(parts)}
    checkpoints.restore(
        encoder,
        _encoder_arrays(checkpoint, config),
        source=str(checkpoint),
        allow_missing=config.run.allow_missing,
    )


def _encoder_arrays(checkpoint: pathlib.Path, config: Config) -> dict[str, Any]:
    name = METHODS[config.run.method].encoder_name
    return state.as_backbone(checkpoints.read_arrays(checkpoint), name)


def measure_classifier(
    config: Config,
    data: build.RunData,
    evaluation: data_lib.Source,
    method: Supervised,
    *,
    label: str,
) -> list[dict[str, Any]]:
    """Top-1 and top-5 of the classifier on the evaluation split, every image once."""
    scores, truth = evaluate.extract_features(
        method.classify,
        data_lib.eval_dataset(
            evaluation,
            image_size=data.image_size,
            batch_size=config.evaluation.eval_batch_size,
        ),
    )
    values = {f"top{k}": evaluate.top_k_accuracy(scores, truth, k=k) for k in (1, 5)}
    what = {
        "linear_eval": "linear classifier on frozen features",
        "finetune": "finetuned network",
        "classifier": "classifier of the network trained from scratch",
    }[label]
    protocol = (
        f"{what}, {config.optim.optimizer}, {data.train.num_examples} training images, last step, "
        "one evaluation view"
    )
    say()
    say(f"{config.data.dataset}, {evaluation.split}: {len(truth)} images")
    say(table(["", "top-1", "top-5"], [[what, percent(values["top1"]), percent(values["top5"])]]))
    return [
        {
            "metric": f"{label}_{name}",
            "value": value,
            "protocol": protocol,
            "split": evaluation.split,
            "count": len(truth),
            "seed": config.run.seed,
        }
        for name, value in values.items()
    ]


def _logistic_regression(config: Config, data: build.RunData) -> list[dict[str, Any]]:
    """``--linear_protocol=lbfgs``: logistic regression on features of the clean images."""
    evaluation = data.labelled_evaluation()
    backbone = build_backbone(config, data.image_size)
    backbone(tf.zeros([2, data.image_size, data.image_size, 3]))
    found, _ = checkpoints.find_checkpoint(config.run.checkpoint)
    named = dict(state.named_variables(backbone, "backbone"))
    checkpoints.restore(named, _encoder_arrays(found, config), source=str(found))

    def embed(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(backbone(images, training=False), tf.float32)

    sets = [
        data_lib.eval_dataset(
            source, image_size=data.image_size, batch_size=config.evaluation.eval_batch_size
        )
        for source in (data.train, evaluation)
    ]
    (features, labels), (queries, truth) = (
        evaluate.extract_features(embed, dataset) for dataset in sets
    )
    found_values = evaluate.logistic_probe(
        features.astype(np.float64),
        labels,
        queries.astype(np.float64),
        truth,
        num_classes=data.train.num_classes,
        search="two_level",
        seed=config.run.seed,
    )
    say()
    say(f"{config.data.dataset}, {evaluation.split}: {len(truth)} images")
    top1, top5 = found_values["linear_top1"], found_values["linear_top5"]
    say(
        table(
            ["", "top-1", "top-5"],
            [["logistic regression on frozen features", percent(top1), percent(top5)]],
        )
    )
    return [
        {
            "metric": f"linear_{name}",
            "value": value,
            "protocol": found_values["protocol"],
            "split": evaluation.split,
            "count": len(truth),
            "seed": config.run.seed,
        }
        for name, value in (("top1", top1), ("top5", top5))
    ]
