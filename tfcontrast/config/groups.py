"""The options that every run has, by topic; those of encoder and optimizer stand beside."""

import dataclasses

from tfcontrast.config.encoder import ModelConfig
from tfcontrast.config.optimization import OptimConfig
from tfcontrast.config.option import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What to do, and where its results go."""

    method: str = option("supcon", "The method.")
    mode: str = option(
        "train_then_eval",
        "train, evaluate a trained run, both, or export a SavedModel.",
        choices=("train", "eval", "train_then_eval", "export"),
    )
    train_mode: str = option(
        "pretrain",
        "pretrain an encoder, train a linear classifier on a frozen one, or finetune one whole.",
        choices=("pretrain", "linear_eval", "finetune"),
    )
    model_dir: str = option(
        "",
        "The run's folder; empty: runs/<dataset>_<method>[_<train_mode>]. The same settings "
        "resume.",
    )
    checkpoint: str = option(
        "",
        "Where linear_eval, finetune, eval and export find the weights: a run's folder or one "
        "checkpoint.",
    )
    allow_missing: str = option(
        "",
        "Comma-separated prefixes of variables that the checkpoint may lack, such as "
        "projector,probe.",
    )
    seed: int = option(
        0, "Seed of the weights, the data order and every augmentation.", low=0, high=2**32 - 1
    )
    framework_logs: bool = option(False, "Show TensorFlow's own start-up messages.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from."""

    dataset: str = option(
        "digits",
        "A TFDS name (cifar10, imagenet2012, ...), folder:PATH, or digits (1,797 real digits, "
        "embedded).",
    )
    data_dir: str = option("", "Where TFDS keeps its prepared data; empty: TFDS's own default.")
    download: bool = option(
        False, "Let TFDS download and prepare a data set that is not there yet."
    )
    train_split: str = option("train", "Split to train on, in TFDS syntax (train[:90%]).")
    eval_split: str = option(
        "", "Split to evaluate on; empty: test, or validation where there is no test."
    )
    holdout_fraction: float = option(
        0.02,
        "Share of the training images kept out of training for the kNN monitor.",
        low=0,
        high=0.5,
    )
    image_size: int = option(
        0,
        "Side of the views in pixels; 0: the data set's own up to 96, else 224.",
        low=0,
        high=4096,
    )
    max_bad_images: float = option(
        0.01,
        "Share of unreadable images that is skipped (and named) before the run stops.",
        low=0,
        high=1,
    )
    data_service: str = option(
        "",
        "Let the tf.data service at this address (grpc://host:port) prepare the training batches; "
        "its workers need the data set under the same paths. Order and views stay the same.",
    )

    def __post_init__(self) -> None:
        """One name for a folder, with and without a slash at its end."""
        if isinstance(self.dataset, str) and self.dataset.startswith("folder:"):
            path = self.dataset.rstrip("/")
            object.__setattr__(self, "dataset", self.dataset if path == "folder:" else path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How an image becomes views."""

    augmentation: str = option(
        "simclr_v2", "The recipe of the views; see tfcontrast/augment/recipes.py."
    )
    color_jitter_strength: float | None = option(
        None, "Multiplies the recipe's colour jitter.", low=0, high=4
    )
    use_blur: bool | None = option(
        None, "Blur views with probability 0.5; unset: as the recipe says."
    )
    augment_on: str = option(
        "auto",
        "Where the views are made once images are decoded: on the host, or on the device within "
        "the step; auto: on a GPU or TPU if there is one.",
        choices=("auto", "host", "device"),
    )
    crop_area_min: float | None = option(
        None, "Smallest share of the image's area in a crop.", low=0.001, high=1
    )
    crop_area_max: float | None = option(
        None, "Largest share of the image's area in a crop.", low=0.001, high=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how often, how much at once."""

    train_batch_size: int = option(4096, "Images of a step, over all replicas.", low=1)
    micro_batch: int = option(
        0,
        "Images of a replica's share that pass the networks at once, for batches that memory does "
        "not hold; the loss stays the whole batch's, batch norm sees a part. 0: the whole share.",
        low=0,
    )
    train_epochs: int = option(100, "Epochs of floor(images / batch) steps.", low=1)
    train_steps: int = option(0, "Steps; wins over train_epochs when set.", low=0)
    steps_per_execution: int = option(
        1,
        "Most steps between two looks of the host (signals, the bar, skipped steps), for devices "
        "that wait for it; the largest divisor of epoch and other periods up to it is used.",
        low=1,
    )
    checkpoint_epochs: int = option(1, "Epochs between checkpoints.", low=1)
    checkpoint_steps: int = option(
        0, "Steps between checkpoints; wins over checkpoint_epochs when set.", low=0
    )
    keep_checkpoint_max: int = option(3, "Newest checkpoints kept.", low=1)
    keep_checkpoint_every: int = option(
        0, "Steps between checkpoints that are kept for good besides; 0: none.", low=0
    )
    max_runtime: float = option(
        0.0,
        "Hours after which the run saves, stops and exits with code 75: the same command goes on; "
        "0: no limit.",
        low=0,
    )
    max_bad_steps: int = option(
        5,
        "Steps in a row without a finite gradient before an older checkpoint is put back.",
        low=1,
    )
    monitor_epochs: int = option(
        10, "Epochs between kNN monitors on the held-out images; 0: never.", low=0
    )
    lineareval_while_pretraining: bool = option(
        True, "Train a linear probe beside, on stop-gradient features."
    )
    summary_steps: int = option(0, "Steps between TensorBoard points; 0: once an epoch.", low=0)
    profile: int = option(
        0, "Steps that TensorBoard's profiler records, after the first ten; 0: none.", low=0
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How encoders are measured, and how linear_eval and finetune attach a classifier."""

    eval_batch_size: int = option(256, "Images at once in evaluation.", low=1)
    knn_k: int = option(200, "Neighbours of the weighted kNN.", low=1)
    knn_temperature: float = option(0.1, "Temperature of the weighted kNN.", low=1e-4)
    eval_baselines: bool = option(True, "Measure raw pixels and the untrained network beside.")
    linear_protocol: str = option(
        "sgd",
        "linear_eval: SGD on augmented images, or L-BFGS on features.",
        choices=("sgd", "lbfgs"),
    )
    label_fraction: float = option(
        1.0, "Share of the training labels that linear_eval and finetune see.", low=1e-6, high=1
    )
    ft_proj_selector: int = option(
        0, "Projector layer that finetune keeps: 0 none, k the first k, -1 all.", low=-1
    )
    fine_tune_after_block: int = option(
        -1,
        "finetune trains only what follows this group of a ResNet or block of a vision "
        "transformer: -1 everything, 0 after the stem or the patches' embedding, 4 or 12 the "
        "classifier.",
        low=-1,
        high=12,
    )
    zero_init_logits_layer: bool = option(
        True, "Start linear_eval's and finetune's classifier at zero."
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StrategyConfig:
    """On which devices."""

    strategy: str = option(
        "auto",
        "none: one device; multi_worker: the cluster of TF_CONFIG; auto: mirrored where there are "
        "several GPUs, else none.",
        choices=("auto", "none", "mirrored", "multi_worker", "tpu"),
    )
    num_replicas: int = option(
        0, "Replicas of mirrored; 0: every GPU. Without GPUs the CPU is split.", low=0, high=1024
    )
    tpu_name: str = option("", "Name or address of the TPU; empty: this machine's.")


GROUPS: dict[str, type] = {
    "run": RunConfig,
    "data": DataConfig,
    "augment": AugmentConfig,
    "model": ModelConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "evaluation": EvalConfig,
    "strategy": StrategyConfig,
}
