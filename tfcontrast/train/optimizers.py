"""From options to the optimizer and the schedules of learning rate and weight decay."""

from tfcontrast import optim
from tfcontrast.config import Config, OptimConfig
from tfcontrast.optim import SummedOptimizer, WarmupSchedule


def make_run_optimizer(config: Config, steps_per_epoch: int, total_steps: int) -> SummedOptimizer:
    """The optimizer and its schedule over the run's length.

    Args:
        config: the run's options.
        steps_per_epoch: steps of a pass over the training images.
        total_steps: the run's length.
    """
    options = config.optim
    decay_steps = []
    if options.learning_rate_schedule in ("step", "exponential"):
        epochs = [float(word) for word in options.decay_epochs.split(",")]
        decay_steps = [max(1, round(epoch * steps_per_epoch)) for epoch in epochs]
    hold = decay_steps[0] if options.learning_rate_schedule == "exponential" else 1
    if options.schedule_by_epoch:
        hold = steps_per_epoch
    peak = optim.scaled_learning_rate(
        options.learning_rate, config.train.train_batch_size, options.learning_rate_scaling
    )
    schedule = optim.WarmupSchedule(
        peak,
        total_steps=total_steps,
        warmup_steps=min(total_steps, round(options.warmup_epochs * steps_per_epoch)),
        warmup_start=peak * options.initial_learning_rate,
        decay=options.learning_rate_schedule,
        final_fraction=options.final_learning_rate,
        decay_steps=decay_steps,
        decay_rate=options.decay_rate,
        hold_steps=hold,
    )
    # larc adapts and decays every parameter by its definition; the others leave biases and norms.
    spared = None if options.lars_variant == "larc" else ("bias", "norm")
    return optim.make_optimizer(
        options.optimizer,
        learning_rate=schedule,
        weight_decay=_weight_decay(options, total_steps),
        momentum=options.momentum,
        nesterov=options.nesterov,
        lars_variant=options.lars_variant,
        trust_coefficient=options.trust_coefficient or None,
        clip_norm=options.clip_norm or None,
        clip_tensor_norm=options.clip_tensor_norm or None,
        exclude_from_decay=() if options.decay_all else spared,
    )


def _weight_decay(options: OptimConfig, total_steps: int) -> float | WarmupSchedule:
    """A number, or the cosine from it to ``final_weight_decay`` (DINO)."""
    first, last = options.weight_decay, options.final_weight_decay
    if last < 0:
        return first
    return WarmupSchedule(first, total_steps=total_steps, final_fraction=last / first)
