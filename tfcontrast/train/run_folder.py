"""A run's folder: its options, its checkpoints, its results.

``flags.txt`` repeats the run (``--flagfile``), ``checkpoints/`` holds its state, ``result.json``
what was measured; TensorBoard's events and ``saved_model/`` stand beside them.
"""

import contextlib
import fnmatch
import json
import os
import pathlib
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tfcontrast.config import Config
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints
from tfcontrast.train.lock import LOCK, locked

_STATED = "flags.txt"
_TEMPORARY = ".*.[0-9]*.tmp"
_TRAINS = ("train", "train_then_eval")
# Options that may change when a run is resumed: they move neither a weight nor the data.
_FREE = frozenset(
    [
        "mode",
        "model_dir",
        "framework_logs",
        "data_dir",
        "data_service",
        "download",
        "max_bad_images",
        "strategy",
        "num_replicas",
        "tpu_name",
        "augment_on",
        "remat",
        "eval_batch_size",
        "knn_k",
        "knn_temperature",
        "eval_baselines",
        "checkpoint_epochs",
        "checkpoint_steps",
        "keep_checkpoint_max",
        "keep_checkpoint_every",
        "max_bad_steps",
        "max_runtime",
        "monitor_epochs",
        "summary_steps",
        "profile",
        "eval_split",
    ]
)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole: a reader sees the old text or the new one.

    Raises:
        UserError: the disk is full or read-only; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):  # an interruption
            raise
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


@contextlib.contextmanager
def opened(config: Config, flagfile: str) -> Iterator[pathlib.Path]:
    """Opens the run's folder: a new one, or one of the same options.

    When the run fails before it has written anything else, what was made here is removed again, so
    that a mistaken option leaves no trace and the folder is free for the corrected command. While
    it trains, no other process may.

    Args:
        config: the run's options.
        flagfile: the same as a flagfile.

    Yields:
        The folder; with ``flags.txt`` in it when the run trains.

    Raises:
        UserError: the folder belongs to a run with other options, or to something else, or cannot
            be written.
    """
    folder = locate(config)
    trains = config.run.mode in _TRAINS
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    _check(folder, flagfile, trains)
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--model_dir={folder} cannot be made: {error.strerror or error}"
            ) from error
        lock = locked(folder) if trains else contextlib.nullcontext()
        with lock, _stated(folder, flagfile, trains):
            yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            for path in missing:
                path.rmdir()
        raise


@contextlib.contextmanager
def _stated(folder: pathlib.Path, flagfile: str, trains: bool) -> Iterator[None]:
    """Writes ``flags.txt`` where it is due, and deletes it when the run leaves nothing else."""
    # Again, now that no other process can change the folder.
    states = _check(folder, flagfile, trains)
    try:
        if trains:
            for leftover in folder.glob(_TEMPORARY):  # of a process that was killed
                with contextlib.suppress(OSError):
                    leftover.unlink()
        if states:
            write_text(folder / _STATED, flagfile)
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if states and _contents(folder) == {_STATED}:
                (folder / _STATED).unlink()
        raise


def _check(folder: pathlib.Path, flagfile: str, trains: bool) -> bool:
    """Refuses a folder that this run must not touch; tells whether ``flags.txt`` is to be written.

    A run that only measures or exports may write beside any run, but into no other folder.
    """
    stated = folder / _STATED
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--model_dir={folder} is a file; give a folder")
        if not folder.is_dir() or not _contents(folder):
            return trains
        if not stated.exists():
            raise UserError(
                f"--model_dir={folder} is not empty and holds no run; give a new folder"
            )
        if not trains:
            return False
        before, now = _parse(stated.read_text(encoding="utf-8", errors="replace")), _parse(flagfile)
    except OSError as error:
        raise UserError(f"--model_dir={folder} cannot be read: {error.strerror}") from error
    changed = [
        name
        for name in [*now, *(before.keys() - now.keys())]
        if name not in _FREE and before.get(name) != now.get(name)
    ]
    # A run that was broken off before its first step has nothing to lose.
    if changed and _contents(folder) != {_STATED}:
        differences = ", ".join(
            f"--{name} {_value(before, name)} there, {_value(now, name)} now" for name in changed
        )
        raise UserError(
            f"--model_dir={folder} belongs to a run with other settings ({differences}); give "
            "these or another --model_dir"
        )
    return bool(changed)


def _parse(flagfile: str) -> dict[str, str]:
    pairs = (line[2:].partition("=") for line in flagfile.splitlines() if line.startswith("--"))
    return {name: value for name, _, value in pairs}


def _value(options: Mapping[str, str], name: str) -> str:
    return options.get(name, "unset") or "empty"


def _contents(folder: pathlib.Path) -> set[str]:
    """The names in a folder, without what a running or a killed process leaves beside the run."""
    names = {path.name for path in folder.iterdir()} - {LOCK}
    return {name for name in names if not fnmatch.fnmatch(name, _TEMPORARY)}


def locate(config: Config) -> pathlib.Path:
    """The run's folder: ``--model_dir``, or the checkpoint's run, or a name of its own.

    Raises:
        UserError: a checkpoint outside of a run's folder is to be measured or exported, so that
            there is no place for the results.
    """
    options = config.run
    if options.model_dir:
        return pathlib.Path(options.model_dir).expanduser()
    if options.mode not in _TRAINS:
        found, _ = checkpoints.find_checkpoint(options.checkpoint)
        if found.absolute().parent.name != "checkpoints":
            raise UserError(
                f"--mode={options.mode} needs --model_dir for its results: {found} is not in a "
                "run's folder"
            )
        return found.absolute().parent.parent
    dataset = re.sub(r"[^A-Za-z0-9_.-]+", "-", config.data.dataset.removeprefix("folder:"))
    suffix = "" if options.train_mode == "pretrain" else f"_{options.train_mode}"
    return pathlib.Path("runs") / f"{dataset.strip('-')}_{options.method}{suffix}"


def write_result(folder: pathlib.Path, config: Config, result: Mapping[str, Any]) -> None:
    """Adds to the run's ``result.json``; what is measured now replaces its older value."""
    path = folder / "result.json"
    before: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # none yet, or damaged
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    about = {
        "method": config.run.method,
        "train_mode": config.run.train_mode,
        "dataset": config.data.dataset,
        "seed": config.run.seed,
        "versions": checkpoints.versions(),
    }
    text = json.dumps({**before, **about, **result}, indent=1, sort_keys=True)
    write_text(path, text + "\n")


def describe(config: Config, folder: pathlib.Path, strategy: tf.distribute.Strategy) -> str:
    """The run's first line: what, on which devices, where."""
    replicas = strategy.num_replicas_in_sync
    batch = config.train.train_batch_size
    kinds = sorted(
        {
            device.device_type
            for device in tf.config.list_logical_devices()
            if device.device_type != "TPU_SYSTEM"
        }
    )
    where = f"{replicas} replica{'s' if replicas > 1 else ''} on {'/'.join(kinds)}"
    what = f"{config.run.method} {config.run.train_mode} on {config.data.dataset}"
    if config.run.mode not in _TRAINS:
        return f"{config.run.mode} of {what}: {where}, in {folder}"
    shares = f", {batch // replicas} a replica" if replicas > 1 else ""
    return f"{what}: {where}, batch {batch}{shares}, seed {config.run.seed}, in {folder}"


def next_commands(config: Config, folder: pathlib.Path) -> str:
    """What a user would type next."""
    run, place = "python -m tfcontrast.run", shlex.quote(str(folder))
    lines = []
    if config.run.mode == "export":
        return ""
    if config.run.mode == "train":
        lines.append(f"{run} --mode=eval --model_dir={place}")
    if config.run.train_mode == "pretrain":
        lines += [
            f"{run} --train_mode=linear_eval --checkpoint={place}",
            f"{run} --mode=export --checkpoint={place}",
        ]
    lines.append(f"tensorboard --logdir={place}")
    return "\n".join(["", "next:", *(f"  {line}" for line in lines)])
