"""The one training loop: ``Model.fit`` from whatever step the run's folder holds to the last."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast import distribute
from tfcontrast.augment import ViewRecipe
from tfcontrast.config import Config
from tfcontrast.errors import UserError
from tfcontrast.methods import Method
from tfcontrast.train import build, checkpoints, interruption, state
from tfcontrast.train.callbacks import KnnMonitor, Rates
from tfcontrast.train.console import say
from tfcontrast.train.divergence import BadSteps
from tfcontrast.train.epochs import (
    EpochBegin,
    OrderWatch,
    RunOver,
    fit_epochs,
    overrides_begin,
)
from tfcontrast.train.health import Health
from tfcontrast.train.profiling import Profile
from tfcontrast.train.progress import Progress
from tfcontrast.train.saving import Checkpoints, Stopper
from tfcontrast.train.tensorboard import TensorBoard


def train(
    method: Method, config: Config, data: build.RunData, folder: pathlib.Path
) -> dict[str, Any]:
    """Trains a method to its last step, from its folder's newest whole checkpoint if there is one.

    The resumed run repeats the uninterrupted one bit for bit: the data's order and every
    augmentation are functions of the step, and weights, optimizers and running metrics are in the
    checkpoint.

    Args:
        method: built, compiled and prepared.
        config: the run's options.
        data: the run's images.
        folder: the run's folder.

    Returns:
        ``steps``, ``epochs``, ``examples_per_second``, ``skipped_steps`` (without a finite
        gradient) and the last epoch's metrics.

    Raises:
        UserError: the newest checkpoint is not of this run's model, the last one could not be
            written, or the training diverges.
        Interrupted: a signal or ``max_runtime`` stopped it, or a worker was lost; the same call
            goes on.
    """
    batch_size = config.train.train_batch_size
    per_epoch = data_lib.steps_per_epoch(data.train, batch_size)
    last = build.total_steps(config, per_epoch)
    epochs = -(-last // per_epoch)
    # Several workers share the folder: all read, one writes.
    chief = distribute.is_chief(method.distribute_strategy)
    with _all_workers(method.distribute_strategy):
        step, arrays, manifest = _resume(method, folder / "checkpoints", last, chief)
    history, end_due = manifest.get("logs", {}), manifest.get("end_due") is True
    method.steps_per_execution = build.execution_steps(config, step, last, per_epoch)
    rates = Rates(batch_size)
    recipes = build.make_recipes(config, data.image_size)
    with contextlib.ExitStack() as stack:
        stack.enter_context(interruption.listening(hours=config.train.max_runtime))
        writes = chief and (step < last or end_due)
        saver = _saver(config, data, folder, per_epoch, last) if writes else None
        stopper = Stopper(saver, last_step=last)
        begin = _epoch_begin(method, config, data, per_epoch, stopper)
        bad_steps = _bad_steps(config, folder, chief)
        callbacks = [*([begin] if begin else []), rates]
        callbacks += [*_monitor(config, data, epochs, stopper), bad_steps]
        if saver is not None:
            board = TensorBoard(folder, every=config.train.summary_steps)
            progress = Progress(
                batch_size=batch_size, epochs=epochs, total_steps=last, first_step=step
            )
            for opened in (board, progress):
                stack.callback(opened.close)
            callbacks += [board, progress, _health(config, data), saver]
            callbacks += _profile(config, folder, stack)
            if step == 0:
                options = {"batch_size": batch_size, "seed": config.run.seed}
                board.write_views(data_lib.preview(data.train, recipes, **options))
        callbacks += [stopper, OrderWatch(bad_steps)]
        stack.enter_context(_all_workers(method.distribute_strategy))
        stack.enter_context(interruption.deferred())
        stack.enter_context(data_lib.plain_errors())
        if end_due:
            history = _end_epoch(method, callbacks, (step - 1) // per_epoch, history)
        history = (
            fit_epochs(
                method,
                _batches(method, config, data, recipes),
                begin,
                steps=(step, last, per_epoch),
                callbacks=callbacks,
                arrays=arrays,
            )
            or history
        )
    return {
        "steps": last,
        "epochs": epochs,
        "examples_per_second": rates.mean or history.get("examples_per_second"),
        "skipped_steps": int(tf.convert_to_tensor(method.optimizer.bad_steps)),
        "last_epoch": history,
    }


def _profile(
    config: Config, folder: pathlib.Path, stack: contextlib.ExitStack
) -> list[keras.callbacks.Callback]:
    """The profiler's window if the user wants one; closed with the stack."""
    if not config.train.profile:
        return []
    profile = Profile(folder, config.train.profile)
    stack.callback(profile.close)
    return [profile]


def _end_epoch(
    method: Method,
    callbacks: list[keras.callbacks.Callback],
    epoch: int,
    logs: dict[str, float],
) -> dict[str, float]:
    """Runs the end of an epoch whose steps were saved before it; gives the epoch's numbers."""
    history = keras.callbacks.History()  # the others share a copy of the numbers with it
    group = keras.callbacks.CallbackList([*callbacks, history], model=method)
    group.on_train_begin()
    group.on_epoch_end(epoch, logs)
    group.on_train_end(logs)
    return {name: float(values[-1]) for name, values in history.history.items()}


@contextlib.contextmanager
def _all_workers(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns what TensorFlow raises when another worker has died into one line.

    Raises:
        Interrupted: all workers must be started again.
    """
    lost = (
        tf.errors.UnavailableError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
        tf.errors.DeadlineExceededError,
    )
    try:
        yield
    except lost as error:
        if distribute.num_workers(strategy) == 1:
            raise
        raise interruption.Interrupted(
            f"a worker was lost ({type(error).__name__}); restart all workers with the same command"
        ) from error


def _resume(
    method: Method, folder: pathlib.Path, last: int, chief: bool
) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Restores the newest whole checkpoint: its step, its arrays, its manifest."""
    strategy = method.distribute_strategy
    if not chief:
        distribute.any_worker(strategy, False)  # waits until the chief has mended
    found = checkpoints.latest_checkpoint(folder, mend=chief)
    if chief:
        distribute.any_worker(strategy, False)
    if _differs(strategy, found[1]["step"] if found else 0):
        raise UserError(
            f"the workers see different checkpoints in {folder}; --model_dir must be a folder that "
            "all machines share"
        )
    if found is None:
        return 0, {}, {}
    checkpoint, manifest = found
    arrays = checkpoints.read_arrays(checkpoint)
    checkpoints.restore(state.full_state(method), arrays, source=str(checkpoint), whole=True)
    interruption.resumes_from(checkpoint.name)
    if chief:
        say(f"resumed from {checkpoint.name}: {manifest['step']} of {last} steps are done")
    return int(manifest["step"]), arrays, manifest


def _differs(strategy: tf.distribute.Strategy, number: int) -> bool:
    """Whether the workers have different numbers, below 2**40: some bit is set and is not."""
    bits = [bool(number >> place & 1) for place in range(40)]
    return any(
        distribute.any_worker(strategy, bit) and distribute.any_worker(strategy, not bit)
        for bit in bits
    )


def _saver(
    config: Config, data: build.RunData, folder: pathlib.Path, per_epoch: int, last: int
) -> Checkpoints:
    options = config.train
    return Checkpoints(
        folder / "checkpoints",
        build.resolved_options(config, data),
        every=options.checkpoint_steps or options.checkpoint_epochs * per_epoch,
        keep=options.keep_checkpoint_max,
        keep_every=options.keep_checkpoint_every,
        last_step=last,
    )


def _batches(
    method: Method, config: Config, data: build.RunData, recipes: tuple[ViewRecipe, ...]
) -> Callable[[int, np.ndarray[Any, Any] | None], Any]:
    """The batches from a step on; with a strategy every process makes those of its replicas."""
    strategy, seed = method.distribute_strategy, config.run.seed
    on_device = build.augments_on_device(config)
    # Compiled once, however many data sets follow each other.
    views = data_lib.view_maker(data.train, recipes, seed=seed, host=not on_device)
    method.view_maker = views if on_device else None

    def dataset(step: int, order: np.ndarray[Any, Any] | None) -> Any:
        def make(context: tf.distribute.InputContext | None = None) -> tf.data.Dataset:
            return data_lib.train_dataset(
                data.train,
                recipes,
                batch_size=config.train.train_batch_size,
                seed=seed,
                start_step=step,
                share=distribute.worker_share(context) if context else (0, 1, 1),
                service=config.data.data_service,
                order=order,
                views=views,
                unfinished=on_device,
            )

        if strategy.num_replicas_in_sync == 1:
            return make()
        return strategy.distribute_datasets_from_function(make)

    return dataset


def _epoch_begin(
    method: Method, config: Config, data: build.RunData, per_epoch: int, stopper: Stopper
) -> EpochBegin | None:
    if not overrides_begin(method):
        return None
    run_over = RunOver(
        data.train,
        image_size=data.image_size,
        batch_size=config.evaluation.eval_batch_size,
        between_batches=stopper.break_off_begin,
    )
    return EpochBegin(run_over, per_epoch=per_epoch)


def _monitor(
    config: Config, data: build.RunData, epochs: int, stopper: Stopper
) -> list[keras.callbacks.Callback]:
    if data.held_out is None:
        return []
    return [
        KnnMonitor(
            data.train,
            data.held_out,
            every=config.train.monitor_epochs,
            epochs=epochs,
            image_size=data.image_size,
            batch_size=config.evaluation.eval_batch_size,
            k=config.evaluation.knn_k,
            temperature=config.evaluation.knn_temperature,
            between_batches=stopper.break_off,
        )
    ]


def _health(config: Config, data: build.RunData) -> Health:
    return Health(
        batch_size=config.train.train_batch_size,
        held_out=data.held_out.num_examples if data.held_out else 0,
        warmup_epochs=config.optim.warmup_epochs,
    )


def _bad_steps(config: Config, folder: pathlib.Path, chief: bool) -> BadSteps:
    return BadSteps(folder / "checkpoints", most=config.train.max_bad_steps, chief=chief)
