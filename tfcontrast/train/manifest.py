"""A checkpoint's manifest: the files that belong to it, its step, options and versions.

It holds every file's size and hash and a hash of itself, so that no flipped bit goes unseen.
Nothing in it is believed before it is checked: it may be damaged, or a stranger's.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from tfcontrast.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1
_INDEX = "variables.index"
_LARGEST = 2**24


def hash_of(manifest: Mapping[str, Any]) -> str:
    """The hash of a manifest's content, without its own hash."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def hash_file(path: pathlib.Path) -> str:
    """The hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(checkpoint: pathlib.Path) -> dict[str, Any]:
    """Reads and verifies a checkpoint's manifest: its own hash, and every file's size and hash.

    Raises:
        UserError: the folder is no checkpoint, or it is damaged; says how.
    """
    try:
        manifest = _load(checkpoint / MANIFEST)
        _check_fields(checkpoint, manifest)
        _check_files(checkpoint, manifest.get("files"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{checkpoint} is not a whole checkpoint ({reason})") from error
    return manifest


def _load(path: pathlib.Path) -> dict[str, Any]:
    if path.exists() and not (path.is_file() and path.stat().st_size <= _LARGEST):
        raise ValueError(f"{MANIFEST} is not a file of at most {_LARGEST} bytes")
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise ValueError(f"{MANIFEST} holds something else")
    return manifest


def _check_fields(checkpoint: pathlib.Path, manifest: dict[str, Any]) -> None:
    # Checkpoints of the first days have no such hash.
    if manifest.get("sha256", hash_of(manifest)) != hash_of(manifest):
        raise ValueError(f"{MANIFEST} is damaged: it has not the hash that it states")
    if manifest["format"] != FORMAT:
        raise ValueError(f"it has format {manifest['format']!r}; this version reads {FORMAT}")
    step, logs = manifest.get("step"), manifest.get("logs", {})
    if type(step) is not int or step < 0:
        raise ValueError(f"{MANIFEST} states no step")
    if re.fullmatch(r"step_\d{8,}", checkpoint.name) and int(checkpoint.name[5:]) != step:
        raise ValueError(f"{MANIFEST} is of step {step}")
    if not isinstance(manifest.get("config"), dict):
        raise ValueError(f"{MANIFEST} states no options")
    numbers = logs.values() if isinstance(logs, dict) else [None]
    if not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(f"{MANIFEST} states an epoch's numbers that are none")


def _check_files(checkpoint: pathlib.Path, files: Any) -> None:
    if not isinstance(files, dict) or _INDEX not in files or len(files) < 2:
        raise ValueError(f"{MANIFEST} does not name the files")
    for name, stated in files.items():
        # A plain name: nothing outside of the folder is opened.
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or not isinstance(stated, dict):
            raise ValueError(f"{MANIFEST} names a file {name!r}")
        path = checkpoint / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.stat().st_size != stated.get("bytes") or hash_file(path) != stated.get("sha256"):
            raise ValueError(f"{name} is damaged: it has not the size or hash that was written")
