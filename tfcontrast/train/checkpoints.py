"""Checkpoints that are there whole or not at all.

A checkpoint is a folder ``step_00001234`` with TensorFlow's checkpoint files
(``tf.train.load_checkpoint`` reads them) and a ``manifest.json`` with sizes, hashes, the run's
options and versions. It is written under another name, flushed to the disk and then renamed; a
folder without that name never counts.
"""

import contextlib
import json
import logging
import math
import os
import pathlib
import platform
import re
import shutil
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfcontrast
from tfcontrast.errors import UserError
from tfcontrast.train.console import plain
from tfcontrast.train.manifest import FORMAT, MANIFEST, hash_file, hash_of, read_manifest

_PREFIX = "variables"
_REPLACED = ".replaced"


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {
        "tfcontrast": tfcontrast.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def write_checkpoint(
    folder: pathlib.Path,
    arrays: Mapping[str, np.ndarray],
    *,
    step: int,
    config: Mapping[str, Any],
    logs: Mapping[str, float] | None = None,
    end_due: bool = False,
) -> pathlib.Path:
    """Writes one checkpoint below ``folder``, all of it or nothing.

    Args:
        folder: the run's ``checkpoints`` folder; made when absent.
        arrays: the state by name.
        step: the number of steps that were taken.
        config: the run's options by flag name.
        logs: the numbers of the epoch that ends with this step.
        end_due: this epoch's end (its monitor, its line, its points) was broken off, and a resumed
            run begins with it.

    Returns:
        The checkpoint's folder. An older one of the same step is replaced.

    Raises:
        OSError: the disk is full or read-only; what was there before is untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step_{step:08d}"
    work = folder / f".{final.name}.{os.getpid()}.tmp"
    older = final.with_suffix(_REPLACED)
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir()
        _write_files(work, arrays)
        about: dict[str, Any] = {"step": step, "config": dict(config), "logs": dict(logs or {})}
        if end_due:
            about["end_due"] = True
        _write_manifest(work, about)
        if final.exists():
            # A folder cannot be renamed onto another; a crash in between is mended on reading.
            final.rename(older)
        work.rename(final)
        _flush(folder)
        shutil.rmtree(older, ignore_errors=True)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(work, ignore_errors=True)
        _put_back(folder)
        raise OSError(
            f"the checkpoint of step {step} could not be written to {folder}: {plain(str(error))}"
        ) from error
    return final


def _put_back(folder: pathlib.Path) -> None:
    """Undoes a replacement that was broken off between its two renames."""
    for older in folder.glob(f"step_*{_REPLACED}"):
        final = older.with_suffix("")
        if final.exists():
            shutil.rmtree(older, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # a folder that cannot be written
                older.rename(final)


def _write_files(work: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    names = sorted(arrays)
    with tf.device("CPU:0"):  # not through the memory of an accelerator
        tf.raw_ops.SaveV2(
            prefix=str(work / _PREFIX),
            tensor_names=names,
            shape_and_slices=[""] * len(names),
            tensors=[tf.constant(arrays[name]) for name in names],
        )


def _write_manifest(work: pathlib.Path, about: Mapping[str, Any]) -> None:
    files = {}
    for path in sorted(work.iterdir()):
        files[path.name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        _flush(path)
    manifest = {"format": FORMAT, **about, "files": files, "versions": versions()}
    path = work / MANIFEST
    path.write_text(json.dumps({**manifest, "sha256": hash_of(manifest)}, indent=1))
    _flush(path)
    _flush(work)


def _flush(path: pathlib.Path) -> None:
    """Makes a file's bytes, or a folder's entries, outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_arrays(checkpoint: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads every array of a checkpoint, by name; TensorFlow checks each one's checksum.

    Raises:
        UserError: the files cannot be read.
    """
    try:
        reader = tf.train.load_checkpoint(str(checkpoint / _PREFIX))
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        stated = sum(types[name].size * math.prod(shape) for name, shape in shapes.items())
        held = sum(path.stat().st_size for path in checkpoint.glob(f"{_PREFIX}.data-*"))
        if stated > held:  # before memory is asked for
            raise ValueError(f"it states {stated} bytes of arrays and holds {held}")
        return {name: reader.get_tensor(name) for name in shapes}
    except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
        raise UserError(f"{checkpoint} cannot be read: {str(error).splitlines()[0]}") from error


def list_checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """The finished checkpoints below ``folder``, oldest first."""
    found = [p for p in folder.glob("step_*") if re.fullmatch(r"step_\d{8,}", p.name)]
    return sorted((path for path in found if path.is_dir()), key=_step_of)


def _step_of(checkpoint: pathlib.Path) -> int:
    return int(checkpoint.name.removeprefix("step_"))


def latest_checkpoint(
    folder: pathlib.Path, *, mend: bool = False
) -> tuple[pathlib.Path, dict[str, Any]] | None:
    """The newest whole checkpoint and its manifest; damaged newer ones are named and passed over.

    Args:
        folder: the run's ``checkpoints`` folder.
        mend: for the run that owns the folder: damaged checkpoints are renamed, a replacement that
            was broken off is undone, and what a killed process was writing is deleted.
    """
    if mend:
        _put_back(folder)
        _sweep(folder)
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            return checkpoint, read_manifest(checkpoint)
        except UserError as error:
            logging.getLogger(__name__).warning("%s; an older one is used", error)
            if mend:
                aside = checkpoint.with_suffix(".damaged")
                shutil.rmtree(aside, ignore_errors=True)
                with contextlib.suppress(OSError):  # it is passed over in its place as well
                    checkpoint.rename(aside)
    return None


def prune_checkpoints(folder: pathlib.Path, keep: int, *, every: int = 0) -> None:
    """Deletes old checkpoints, and what interrupted writes left behind.

    Args:
        folder: the run's ``checkpoints`` folder.
        keep: how many of the newest stay.
        every: those of its multiples stay for good; 0: none.
    """
    for old in list_checkpoints(folder)[:-keep]:
        if not every or _step_of(old) % every:
            shutil.rmtree(old, ignore_errors=True)
    _sweep(folder)


def _sweep(folder: pathlib.Path) -> None:
    for leftover in folder.glob(".step_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def find_checkpoint(
    path: str, *, flag: str = "--checkpoint"
) -> tuple[pathlib.Path, dict[str, Any]]:
    """Finds what a flag names: one checkpoint, or the newest whole one of a run's folder.

    Args:
        path: the flag's value.
        flag: the flag, for messages.

    Returns:
        The checkpoint's folder and its manifest.

    Raises:
        UserError: there is none.
    """
    folder = pathlib.Path(path).expanduser()
    if (folder / MANIFEST).exists() or folder.name.startswith("step_"):
        return folder, read_manifest(folder)
    found = latest_checkpoint(folder / "checkpoints") if folder.is_dir() else None
    if found is None:
        kind = "holds no checkpoint" if folder.is_dir() else "does not exist"
        raise UserError(
            f"{flag}: {path} {kind}; give a run's folder or one of its checkpoints/step_* folders"
        )
    return found


def restore(
    state: Mapping[str, keras.Variable],
    arrays: Mapping[str, np.ndarray],
    *,
    source: str,
    allow_missing: str = "",
    whole: bool = False,
) -> list[str]:
    """Assigns the arrays to the variables of the same names.

    Args:
        state: the variables to fill.
        arrays: what a checkpoint holds.
        source: the checkpoint's name, for messages.
        allow_missing: comma-separated prefixes of variables that may stay as they are.
        whole: the checkpoint must hold nothing else than ``state``.

    Returns:
        The names that were left as they are.

    Raises:
        UserError: a variable is missing, has another shape, or is one too many; nothing has been
            assigned.
    """
    allowed = tuple(word.strip() for word in allow_missing.split(",") if word.strip())
    missing = [name for name in state if name not in arrays]
    refused = [name for name in missing if not name.startswith(allowed)] if allowed else missing
    if refused:
        raise UserError(
            f"{source} lacks {len(refused)} of {len(state)} variables, the first is {refused[0]}: "
            "it was made by another architecture, or name its prefix in --allow_missing"
        )
    surplus = sorted(arrays.keys() - state.keys()) if whole else []
    if surplus:
        raise UserError(
            f"{source} was made by another architecture: it holds {len(surplus)} variables more, "
            f"the first is {surplus[0]}"
        )
    for name, variable in state.items():
        if name in arrays and tuple(arrays[name].shape) != tuple(variable.shape):
            raise UserError(
                f"{source} was made by another architecture: {name} has shape "
                f"{tuple(arrays[name].shape)} there, {tuple(variable.shape)} here"
            )
    for name, variable in state.items():
        if name in arrays:
            variable.assign(arrays[name])
    return missing
