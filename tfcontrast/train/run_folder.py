"""A run's folder: its options, its checkpoints, its results.

``flags.txt`` repeats the run (``--flagfile``), ``checkpoints/`` holds its state, ``result.json``
what was measured; TensorBoard's events and ``saved_model/`` stand beside them.
"""

import json
import os
import pathlib
import re
import tempfile
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfcontrast.config import Config
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints

# Options that may change when a run is resumed: they move neither a weight nor the data.
_FREE = frozenset(
    [
        "mode",
        "model_dir",
        "framework_logs",
        "data_dir",
        "download",
        "max_bad_images",
        "strategy",
        "num_replicas",
        "tpu_name",
        "eval_batch_size",
        "knn_k",
        "knn_temperature",
        "eval_baselines",
        "checkpoint_epochs",
        "checkpoint_steps",
        "keep_checkpoint_max",
        "monitor_epochs",
        "summary_steps",
        "eval_split",
    ]
)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole: a reader sees the old text or the new one.

    Raises:
        UserError: the disk is full or read-only; the old file is untouched.
    """
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            temporary = file.name
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _parse(flagfile: str) -> dict[str, str]:
    pairs = (line[2:].partition("=") for line in flagfile.splitlines() if line.startswith("--"))
    return {name: value for name, _, value in pairs}


def open_run_folder(model_dir: str, flagfile: str) -> pathlib.Path:
    """Opens a run's folder: a new one, or one of the same options.

    Args:
        model_dir: its path.
        flagfile: the run's options as a flagfile.

    Returns:
        The folder, with ``flags.txt`` in it.

    Raises:
        UserError: the folder belongs to a run with other options, or to something else, or cannot
            be written.
    """
    folder = pathlib.Path(model_dir).expanduser()
    stated = folder / "flags.txt"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--model_dir={model_dir} is a file; give a folder")
    if stated.exists():
        before, now = _parse(stated.read_text()), _parse(flagfile)
        changed = sorted(
            name
            for name in before.keys() | now.keys()
            if name not in _FREE and before.get(name) != now.get(name)
        )
        if changed:
            differences = ", ".join(
                f"--{n}={before.get(n)} there, {now.get(n)} now" for n in changed
            )
            raise UserError(
                f"--model_dir={model_dir} belongs to a run with other settings ({differences})"
            )
        return folder
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--model_dir={model_dir} is not empty and holds no run; give a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--model_dir={model_dir} cannot be made: {error.strerror or error}"
        ) from error
    write_text(stated, flagfile)
    return folder


def locate(config: Config) -> pathlib.Path:
    """The run's folder: ``--model_dir``, or the checkpoint's run, or a name of its own."""
    options = config.run
    if options.model_dir:
        return pathlib.Path(options.model_dir).expanduser()
    if options.mode in ("eval", "export"):
        checkpoint, _ = checkpoints.find_checkpoint(options.checkpoint)
        return checkpoint.parent.parent
    dataset = re.sub(r"[^A-Za-z0-9_.-]+", "-", config.data.dataset.removeprefix("folder:")).strip(
        "-"
    )
    suffix = "" if options.train_mode == "pretrain" else f"_{options.train_mode}"
    return pathlib.Path("runs") / f"{dataset}_{options.method}{suffix}"


def write_result(folder: pathlib.Path, config: Config, result: Mapping[str, Any]) -> None:
    """Adds to the run's ``result.json``; what is measured now replaces its older value."""
    path = folder / "result.json"
    before: dict[str, Any] = {}
    if path.exists():
        try:
            before = json.loads(path.read_text())
        except ValueError:
            before = {}
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
    shares = f", {batch // replicas} a replica" if replicas > 1 else ""
    what = f"{config.run.method} {config.run.train_mode} on {config.data.dataset}"
    return f"{what}: {where}, batch {batch}{shares}, seed {config.run.seed}, in {folder}"


def next_commands(config: Config, folder: pathlib.Path) -> str:
    """What a user would type next."""
    run = "python -m tfcontrast.run"
    lines = []
    if config.run.train_mode == "pretrain" and config.run.mode != "export":
        lines += [
            f"{run} --train_mode=linear_eval --checkpoint={folder}",
            f"{run} --mode=export --checkpoint={folder}",
        ]
    lines.append(f"tensorboard --logdir={folder}")
    return "\n".join(["", "next:", *(f"  {line}" for line in lines)])
