"""A run's folder: its options, its checkpoints, its results.

``flags.txt`` repeats the run (``--flagfile``), ``checkpoints/`` holds its state, ``result.json`` what was measured; TensorBoard's
events and ``saved_model/`` stand beside them.
"""

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from tfcontrast.errors import UserError

# Options that may change when a run is resumed: they move neither a weight nor the data.
_FREE = frozenset(
    "mode model_dir framework_logs data_dir download max_bad_images strategy num_replicas tpu_name eval_batch_size knn_k "
    "knn_temperature eval_baselines checkpoint_epochs checkpoint_steps keep_checkpoint_max monitor_epochs summary_steps "
    "eval_split".split()
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
        UserError: the folder belongs to a run with other options, or to something else, or cannot be written.
    """
    folder = pathlib.Path(model_dir).expanduser()
    stated = folder / "flags.txt"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--model_dir={model_dir} is a file; give a folder")
    if stated.exists():
        before, now = _parse(stated.read_text()), _parse(flagfile)
        changed = sorted(
            name for name in before.keys() | now.keys() if name not in _FREE and before.get(name) != now.get(name)
        )
        if changed:
            differences = ", ".join(f"--{n}={before.get(n)} there, {now.get(n)} now" for n in changed)
            raise UserError(f"--model_dir={model_dir} belongs to a run with other settings ({differences})")
        return folder
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"--model_dir={model_dir} is not empty and holds no run; give a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--model_dir={model_dir} cannot be made: {error.strerror or error}") from error
    write_text(stated, flagfile)
    return folder


def write_result(folder: pathlib.Path, result: Mapping[str, Any]) -> None:
    """Adds to the run's ``result.json``: what is measured now replaces what was there under the same name."""
    path = folder / "result.json"
    before: dict[str, Any] = {}
    if path.exists():
        try:
            before = json.loads(path.read_text())
        except ValueError:
            before = {}
    write_text(path, json.dumps({**before, **result}, indent=1, sort_keys=True) + "\n")
