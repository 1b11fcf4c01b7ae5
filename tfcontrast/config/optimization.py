"""The options of the optimizer and its schedules."""

import dataclasses

from tfcontrast.config.option import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How weights move."""

    optimizer: str = option(
        "lars", "The optimizer.", choices=("lars", "sgd", "rmsprop", "adam", "adamw", "lamb")
    )
    learning_rate: float = option(0.3, "Base learning rate, before learning_rate_scaling.", low=0)
    learning_rate_scaling: str = option(
        "linear",
        "linear: x batch/256; sqrt: x sqrt(batch); none.",
        choices=("linear", "sqrt", "none"),
    )
    warmup_epochs: float = option(10.0, "Epochs of linear warm-up from 0.", low=0, high=1e6)
    initial_learning_rate: float = option(
        0.0, "Start of the warm-up, as a share of the peak.", low=0, high=1
    )
    learning_rate_schedule: str = option(
        "cosine", "What follows the warm-up.", choices=("cosine", "step", "exponential", "constant")
    )
    final_learning_rate: float = option(
        0.0, "End of the cosine, as a share of the peak.", low=0, high=1
    )
    schedule_by_epoch: bool = option(
        False, "Move the schedule once an epoch instead of at every step."
    )
    decay_epochs: str = option(
        "", "step: comma-separated epochs of each decay; exponential: epochs per decay."
    )
    decay_rate: float = option(0.1, "Factor of each decay.", low=0, high=1)
    weight_decay: float = option(
        1e-6, "Weight decay; biases and norms have none (lars_variant=larc: they do).", low=0
    )
    final_weight_decay: float = option(
        -1.0, "End of a cosine that starts at weight_decay; -1: it is constant.", low=-1
    )
    decay_all: bool = option(False, "Decay biases and norms too, as PyTorch's plain SGD does.")
    momentum: float = option(0.9, "Momentum of sgd, lars and rmsprop.", low=0, high=1)
    nesterov: bool = option(False, "Nesterov momentum for sgd and lars.")
    lars_variant: str = option(
        "simclr",
        "Which LARS; see tfcontrast/optim/lars.py.",
        choices=("simclr", "byol", "larc", "solo"),
    )
    trust_coefficient: float = option(
        0.0, "LARS's trust coefficient; 0: the variant's own (0.001, solo 0.02).", low=0
    )
    clip_norm: float = option(
        0.0, "Clips the summed gradient's global norm; 0: no clipping.", low=0
    )
    clip_tensor_norm: float = option(
        0.0,
        "Clips the norm of each variable's summed gradient instead; 0: no clipping.",
        low=0,
    )
