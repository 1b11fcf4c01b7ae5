"""Whatever is damaged about the newest checkpoint: it is set aside, and the older one stands in."""

import functools
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints
from tfcontrast.train.manifest import hash_of

OLDER, NEWEST = 8, 9
DATA, INDEX, MANIFEST = "variables.data-00000-of-00001", "variables.index", "manifest.json"


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def rewrite(checkpoint, change):
    """Changes a manifest as someone would who knows the format: its own hash is made anew."""
    changed = change(json.loads((checkpoint / MANIFEST).read_text()))
    if isinstance(changed, dict):
        changed["sha256"] = hash_of(changed)
    (checkpoint / MANIFEST).write_text(json.dumps(changed))


def naming(name, **stated):
    """Lets a manifest name a file, or state something else of one."""

    def change(manifest):
        files = manifest["files"]
        return {**manifest, "files": {**files, name: {**files[DATA], **stated}}}

    return change


FILE_DAMAGES = {
    **{f"truncated {n}": (lambda c, n=n: truncate(c / n)) for n in (DATA, INDEX, MANIFEST)},
    **{f"flipped {n}": (lambda c, n=n: flip_a_bit(c / n)) for n in (DATA, INDEX, MANIFEST)},
    **{f"deleted {n}": (lambda c, n=n: (c / n).unlink()) for n in (DATA, INDEX, MANIFEST)},
    **{f"empty {n}": (lambda c, n=n: (c / n).write_bytes(b"")) for n in (DATA, INDEX, MANIFEST)},
    "emptied": lambda c: (shutil.rmtree(c), c.mkdir()),
    "folder for a file": lambda c: ((c / MANIFEST).unlink(), (c / MANIFEST).mkdir()),
    "pipe for a file": lambda c: ((c / MANIFEST).unlink(), os.mkfifo(c / MANIFEST)),
    "no text": lambda c: (c / MANIFEST).write_bytes(b"\xff\x00{\x80"),
    "no JSON": lambda c: (c / MANIFEST).write_text("step: 9"),
    "deep": lambda c: (c / MANIFEST).write_text("[" * 100_000 + "]" * 100_000),
    "vast": lambda c: os.truncate(c / MANIFEST, 2**40),
}
MANIFEST_DAMAGES = {
    "a list": lambda m: [m],
    "no fields": lambda m: {},
    "no files": lambda m: {**m, "files": {}},
    "files as a list": lambda m: {**m, "files": list(m["files"])},
    "size as text": naming(DATA, bytes="many"),
    "absurd size": naming(DATA, bytes=10**30),
    "a path upwards": naming(f"../step_{OLDER:08d}/{DATA}"),
    "an endless file": naming("/dev/zero", bytes=0),
    "another step": lambda m: {**m, "step": 3},
    "step as text": lambda m: {**m, "step": "9"},
    "a number as text": lambda m: {**m, "logs": {"loss": "low"}},
}
DAMAGES = FILE_DAMAGES | {
    f"manifest: {name}": functools.partial(rewrite, change=change)
    for name, change in MANIFEST_DAMAGES.items()
}


@pytest.fixture
def folder(tmp_path):
    """Two checkpoints of some arrays."""
    for step in (OLDER, NEWEST):
        rng = np.random.default_rng(step)
        arrays = {"kernel": rng.random([30, 20]), "count": np.int64(step)}
        checkpoints.write_checkpoint(tmp_path, arrays, step=step, config={"method": "simclr"})
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_set_aside_for_an_older_one(folder, caplog, damage):
    expected = checkpoints.read_arrays(folder / f"step_{OLDER:08d}")
    DAMAGES[damage](folder / f"step_{NEWEST:08d}")
    found, manifest = checkpoints.latest_checkpoint(folder, mend=True)
    assert (found.name, manifest["step"]) == (f"step_{OLDER:08d}", OLDER)
    arrays = checkpoints.read_arrays(found)
    assert arrays.keys() == expected.keys() == {"kernel", "count"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected[name])
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"step_{OLDER:08d}", f"step_{NEWEST:08d}.damaged"]
    told = [r.getMessage() for r in caplog.records if r.name.startswith("tfcontrast")]
    assert len(told) == 1
    assert f"step_{NEWEST:08d} is not a whole checkpoint" in told[0]
    assert "; an older one is used" in told[0]
    assert "\n" not in told[0]
    assert len(told[0]) < 500


def test_arrays_of_an_absurd_size_ask_for_no_memory(folder):
    shutil.copytree(folder / f"step_{OLDER:08d}", folder / "huge")
    tf.raw_ops.SaveV2(
        prefix=str(folder / "huge/variables"),
        tensor_names=["kernel"],
        shape_and_slices=["1000000000000 0,2"],
        tensors=[tf.constant([1.0, 2.0])],
    )
    with pytest.raises(UserError, match="huge cannot be read: it states 4000000000000 bytes"):
        checkpoints.read_arrays(folder / "huge")
