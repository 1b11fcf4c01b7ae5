"""From options to objects: data, backbone, method, optimizer."""

import dataclasses
import math
from typing import Any

import keras
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast.augment import ViewRecipe, view_recipes
from tfcontrast.config import Config
from tfcontrast.distribute import has_accelerator
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS, Method, Plan, Supervised
from tfcontrast.methods.multi_crop import MultiCropConfig
from tfcontrast.train.encoder import build_backbone, check_view_sizes, resolved_encoder
from tfcontrast.train.optimizers import make_run_optimizer

# Images of one size up to this are trained at it, others at 224 pixels.
_LARGEST_NATURAL_SIZE = 96


@dataclasses.dataclass(frozen=True)
class RunData:
    """The images of a run.

    Attributes:
        train: what is trained on.
        held_out: training images kept back for the monitor; None without any.
        whole_train: both together: the bank of the final evaluation.
        evaluation: the evaluation split; None where the data set has none.
        image_size: side of the views in pixels.
    """

    train: data_lib.Source
    held_out: data_lib.Source | None
    whole_train: data_lib.Source
    evaluation: data_lib.Source | None
    image_size: int

    def labelled_evaluation(self) -> data_lib.Source:
        """The evaluation split.

        Raises:
            UserError: there is none.
        """
        if self.evaluation is None or not self.evaluation.num_classes:
            raise UserError(
                f"{self.train.name} has no labelled split to evaluate on; --eval_split names one"
            )
        return self.evaluation


def open_data(config: Config) -> RunData:
    """Opens the run's splits.

    Raises:
        UserError: the data set, a split or its labels are not there, or it is smaller than the
            batch.
    """
    options = config.data
    how: dict[str, Any] = {
        "data_dir": options.data_dir or None,
        "download": options.download,
        "seed": 0,
        "max_bad_images": options.max_bad_images,
    }
    whole = data_lib.open_source(options.dataset, options.train_split, **how)
    evaluation = _open_evaluation(options.dataset, options.eval_split, how)
    classifies = METHODS[config.run.method].needs_labels or config.run.train_mode != "pretrain"
    if classifies and not whole.num_classes:
        what = (
            f"--method={config.run.method}"
            if config.run.train_mode == "pretrain"
            else f"--train_mode={config.run.train_mode}"
        )
        raise UserError(f"{what} needs labels, which --dataset={options.dataset} does not have")
    train = whole
    if config.evaluation.label_fraction < 1:
        if config.run.train_mode == "pretrain" and config.run.method != "supervised":
            raise UserError("--label_fraction is for linear_eval, finetune and --method=supervised")
        labels = train.read_labels()
        _, few = data_lib.stratified_split(
            labels, config.evaluation.label_fraction, seed=config.run.seed
        )
        train = train.subset(few)
    held_out = None
    if (
        options.holdout_fraction
        and config.train.monitor_epochs
        and config.run.train_mode == "pretrain"
        and whole.num_classes
    ):
        train, held_out = data_lib.split_holdout(
            train, options.holdout_fraction, seed=config.run.seed
        )
    if config.train.train_batch_size > train.num_examples:
        raise UserError(
            f"--train_batch_size={config.train.train_batch_size} is larger than the "
            f"{train.num_examples} training images of "
            f"{options.dataset}"
        )
    return RunData(train, held_out, whole, evaluation, options.image_size or _natural_size(whole))


def _open_evaluation(dataset: str, split: str, how: dict[str, Any]) -> data_lib.Source | None:
    """The split that ``--eval_split`` names; without it test, or validation, or none."""
    if not split:
        known = data_lib.source_splits(dataset, data_dir=how["data_dir"], download=how["download"])
        split = next((name for name in ("test", "validation") if name in known), "")
    return data_lib.open_source(dataset, split, **how) if split else None


def _natural_size(source: data_lib.Source) -> int:
    shape = source.image_shape
    if shape is None or max(shape) > _LARGEST_NATURAL_SIZE:
        return 224
    return max(shape)


def make_recipes(config: Config, image_size: int) -> tuple[ViewRecipe, ...]:
    """The views' recipes for the run's method.

    Raises:
        UserError: the recipe has no use for an option, or the encoder none for a view's size.
    """
    options = config.augment
    classifies = config.run.train_mode != "pretrain"
    area = None
    if options.crop_area_min is not None or options.crop_area_max is not None:
        area = (options.crop_area_min or 0.08, options.crop_area_max or 1.0)
    recipes = view_recipes(
        options.augmentation,
        image_size=image_size,
        num_views=1 if classifies else METHODS[config.run.method].num_views,
        **({} if classifies else _local_views(config)),
        color_jitter_strength=options.color_jitter_strength,
        use_blur=options.use_blur,
        crop_area=area,
    )
    check_view_sizes(config, {recipe.image_size for recipe in recipes} - {image_size})
    return recipes


def augments_on_device(config: Config) -> bool:
    """Whether the step makes the views, where the networks run."""
    if config.augment.augment_on != "auto":
        return config.augment.augment_on == "device"
    return has_accelerator()


def _local_views(config: Config) -> dict[str, Any]:
    """The options of the small views, for methods that take them."""
    method = config.method
    if not isinstance(method, MultiCropConfig) or not method.num_local_views:
        return {}
    low, high = method.local_crop_area_min, method.local_crop_area_max
    if (low is None) != (high is None):
        raise UserError(
            "--local_crop_area_min and --local_crop_area_max go together. Received: "
            f"{low} and {high}"
        )
    if low is not None and high is not None and low > high:
        raise UserError(
            f"--local_crop_area_min must not exceed --local_crop_area_max. Received: {low:g} and "
            f"{high:g}"
        )
    return {
        "num_local_views": method.num_local_views,
        "local_image_size": method.local_image_size or None,
        "local_crop_area": None if low is None else (low, high),
    }


def build_method(config: Config, data: RunData) -> Method:
    """The pretraining method, built and compiled; call it in the strategy's scope."""
    keras.utils.set_random_seed(config.run.seed)
    cls = METHODS[config.run.method]
    probes = config.train.lineareval_while_pretraining or cls is Supervised
    make: Any = cls
    method: Method = make(
        build_backbone(config, data.image_size),
        config.method,
        plan=make_plan(config, data),
        num_classes=data.train.num_classes if probes else 0,
        global_bn=config.model.global_bn,
    )
    return compile_method(method, config, data)


def make_plan(config: Config, data: RunData) -> Plan:
    """The numbers of the run that methods may know."""
    batch_size = config.train.train_batch_size
    steps = data_lib.steps_per_epoch(data.train, batch_size)
    return Plan(
        batch_size=batch_size,
        num_examples=data.train.num_examples,
        steps_per_epoch=steps,
        total_steps=total_steps(config, steps),
        seed=config.run.seed,
        micro_batch=config.train.micro_batch,
    )


def compile_method(method: Method, config: Config, data: RunData) -> Method:
    """Gives a method its optimizer and creates every variable."""
    steps = data_lib.steps_per_epoch(data.train, config.train.train_batch_size)
    method.compile(
        optimizer=make_run_optimizer(config, steps, total_steps(config, steps)), jit_compile="auto"
    )
    method.prepare(data.image_size)
    return method


def resolved_options(config: Config, data: RunData) -> dict[str, Any]:
    """The options with what depends on the data spelled out: a checkpoint needs no data."""
    encoder = resolved_encoder(config, data.image_size)
    return {**config.to_dict(), "image_size": data.image_size, **encoder}


def total_steps(config: Config, steps_per_epoch: int) -> int:
    """The run's length: ``train_steps`` when set, else whole epochs."""
    return config.train.train_steps or config.train.train_epochs * steps_per_epoch


def execution_steps(config: Config, step: int, last: int, per_epoch: int) -> int:
    """How many steps one call of the train function takes, so that nothing falls within a call.

    Args:
        config: its ``steps_per_execution`` is the most.
        step: steps that are done.
        last: the run's last step.
        per_epoch: steps of an epoch.

    Returns:
        The largest number up to the most that divides all after which something happens.
    """
    options = config.train
    periods = [step, last, per_epoch if per_epoch < last else 0]
    periods += [options.checkpoint_steps, options.keep_checkpoint_every, options.summary_steps]
    common = math.gcd(*periods)
    return max(n for n in range(1, options.steps_per_execution + 1) if common % n == 0)


def check_batch(config: Config, strategy: tf.distribute.Strategy) -> None:
    """Refuses a global batch that cannot be shared evenly, or that the method cannot train on.

    Raises:
        UserError: it does not divide, or has too few images.
    """
    least = METHODS[config.run.method].least_batch if config.run.train_mode == "pretrain" else 1
    if config.train.train_batch_size < least:
        raise UserError(
            f"--train_batch_size must be at least {least} with --method={config.run.method}, which "
            f"compares images with each other. Received: {config.train.train_batch_size}"
        )
    replicas = strategy.num_replicas_in_sync
    if config.train.train_batch_size % replicas:
        raise UserError(
            f"--train_batch_size={config.train.train_batch_size} must be a multiple of the "
            f"{replicas} replicas"
        )
    splits = config.model.batch_norm_splits
    trains = config.run.mode.startswith("train") and config.run.train_mode != "linear_eval"
    if trains and splits > 1 and (config.train.train_batch_size % splits or splits % replicas):
        raise UserError(
            f"--batch_norm_splits must divide --train_batch_size={config.train.train_batch_size} "
            f"and be a multiple of the {replicas} replicas, or 1. Received: {splits}"
        )
    if config.run.mode.startswith("train"):
        _check_micro_batch(config, config.train.train_batch_size // replicas, least)


def _check_micro_batch(config: Config, share: int, least: int) -> None:
    """Refuses parts of a replica's share that are not whole, or that the method cannot take."""
    size, method = config.train.micro_batch, config.run.method
    if not size:
        return
    if config.run.train_mode == "pretrain" and not METHODS[method].takes_micro_batches:
        accepted = ", ".join(sorted(n for n, cls in METHODS.items() if cls.takes_micro_batches))
        raise UserError(f"--micro_batch is for --method={accepted}. Received: --method={method}")
    if size > share or share % size:
        raise UserError(
            f"--micro_batch must divide the {share} images of --train_batch_size="
            f"{config.train.train_batch_size} that a replica holds, or be 0. Received: {size}"
        )
    if size < least:
        raise UserError(
            f"--micro_batch must be 0 or at least {least} with --method={method}. Received: {size}"
        )
    if config.model.batch_norm_splits > 1 and config.run.train_mode != "linear_eval":
        raise UserError(
            "--micro_batch and --batch_norm_splits both say which images batch norm takes together;"
            f" set one of them to its default. Received: {size} and "
            f"{config.model.batch_norm_splits}"
        )
