"""A damaged checkpoint, a full disk, a folder without write permission: no work is lost."""

import ctypes
import functools
import json
import os
import re
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import flags, run
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints, loop
from tfcontrast.train.manifest import hash_of

LAST, OLDER, NEWEST = 10, 8, 9
OPTIONS = {"train_steps": LAST, "monitor_epochs": 2}
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


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def without_times(logs):
    return {
        name: value
        for name, value in logs.items()
        if name not in ("examples_per_second", "input_wait_share")
    }


def steps(*numbers):
    return [f"step_{step:08d}" for step in numbers]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tiny_config, build_run, tmp_path_factory):
    """An uninterrupted run with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny_config(**OPTIONS)
    method, data = build_run(config, tf.distribute.get_strategy())
    return folder, config, data, method, loop.train(method, config, data, folder)


@pytest.fixture
def begun(whole, tmp_path):
    """A function that makes the folder of the whole run as it was after some steps."""

    def make(*steps):
        for step in steps:
            name = f"checkpoints/step_{step:08d}"
            shutil.copytree(whole[0] / name, tmp_path / "run" / name)
        return tmp_path / "run"

    return make


@pytest.fixture
def resume(whole, scramble):
    """Trains in a folder to the end; what is written there is the whole run's, bit for bit."""
    whole_folder, config, data, method, result = whole

    def run(folder):
        scramble(method)
        trained = loop.train(method, config, data, folder)
        assert without_times(trained["last_epoch"]) == without_times(result["last_epoch"])
        assert checkpoints.latest_checkpoint(folder / "checkpoints")[1]["step"] == LAST
        for path in checkpoints.list_checkpoints(folder / "checkpoints"):
            expected = whole_folder / "checkpoints" / path.name
            assert_same(checkpoints.read_arrays(path), checkpoints.read_arrays(expected))

    return run


def check_told(caplog):
    told = [r.getMessage() for r in caplog.records if r.name.startswith("tfcontrast")]
    assert len(told) == 1
    assert f"step_{NEWEST:08d} is not a whole checkpoint" in told[0]
    assert "; an older one is used" in told[0]
    assert "\n" not in told[0]
    assert len(told[0]) < 500


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_set_aside_for_an_older_one(begun, caplog, damage):
    folder = begun(OLDER, NEWEST) / "checkpoints"
    expected = checkpoints.read_arrays(folder / f"step_{OLDER:08d}")
    DAMAGES[damage](folder / f"step_{NEWEST:08d}")
    found, manifest = checkpoints.latest_checkpoint(folder, mend=True)
    assert (found.name, manifest["step"]) == (f"step_{OLDER:08d}", OLDER)
    assert_same(checkpoints.read_arrays(found), expected)
    check_told(caplog)
    assert names(folder) == [*steps(OLDER), f"step_{NEWEST:08d}.damaged"]


@pytest.mark.parametrize("damage", [f"flipped {DATA}", f"deleted {MANIFEST}"])
def test_a_run_goes_on_from_the_older_one_bit_for_bit(begun, resume, caplog, damage):
    folder = begun(OLDER, NEWEST)
    DAMAGES[damage](folder / f"checkpoints/step_{NEWEST:08d}")
    resume(folder)
    check_told(caplog)
    assert names(folder / "checkpoints") == [
        *steps(OLDER, NEWEST),
        f"step_{NEWEST:08d}.damaged",
        *steps(LAST),
    ]


def at_steps(monkeypatch, actions):
    """Has a run do something after some of its steps."""
    fit = keras.Model.fit

    class Do(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            actions.get(int(self.model.optimizer.iterations), lambda: None)()

    monkeypatch.setattr(
        keras.Model,
        "fit",
        lambda self, *a, callbacks, **k: fit(self, *a, callbacks=[Do(), *callbacks], **k),
    )


@pytest.fixture
def room():
    """A function that leaves so many bytes to every file; without bytes the disk is free again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def leave(most=soft):
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))

    yield leave
    leave()


@pytest.fixture
def permissions_count():
    """Takes the privilege of root to write everywhere from this thread (capabilities(7))."""
    libc = ctypes.CDLL(None)
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capget(header, data)
    before, data[0] = data[0], data[0] & ~(1 << 1)
    libc.capset(header, data)
    yield
    data[0] = before
    libc.capset(header, data)


def assert_told_of(caplog, first, last):
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    told = [line for line in said if "the checkpoint of step" in line]
    assert len(told) == last + 1 - first
    for step, line in zip(range(first, last + 1), told, strict=True):
        assert f"the checkpoint of step {step} could not be written to" in line
        assert "training goes on, older checkpoints are untouched" in line
    return told[0]


def test_training_goes_on_while_the_disk_is_full(begun, resume, monkeypatch, caplog, room):
    folder = begun(1, 2)
    seen = []
    actions = {5: lambda: seen.append(names(folder / "checkpoints")), 6: room}
    at_steps(monkeypatch, {3: functools.partial(room, 1000), **actions})
    resume(folder)
    assert_told_of(caplog, 3, 5)
    assert seen == [steps(1, 2)]
    assert names(folder / "checkpoints") == steps(1, 2, *range(6, LAST + 1))


def test_training_goes_on_while_the_folder_cannot_be_written(
    begun, resume, monkeypatch, caplog, permissions_count
):
    folder = begun(1, 2)
    inside = folder / "checkpoints"
    at_steps(monkeypatch, {3: lambda: inside.chmod(0o555), 6: lambda: inside.chmod(0o755)})
    resume(folder)
    assert "Permission denied" in assert_told_of(caplog, 3, 5)
    assert names(inside) == steps(1, 2, *range(6, LAST + 1))


def test_training_goes_on_while_the_folder_is_away(begun, resume, monkeypatch, caplog):
    folder = begun(1, 2)
    away = folder.with_name("away")
    missing = []

    def come_back():
        missing.append(not folder.exists())
        away.rename(folder)

    at_steps(monkeypatch, {3: lambda: folder.rename(away), 6: come_back})
    resume(folder)
    assert "the run's folder is away" in assert_told_of(caplog, 3, 5)
    assert missing == [True]  # nothing was written in its place
    assert names(folder / "checkpoints") == steps(1, 2, *range(6, LAST + 1))


@pytest.fixture
def command(tiny_config, tmp_path, capsys):
    """Runs the command of the whole run: gives its exit code, its output and its errors."""

    def run_it(folder):
        flagfile = tmp_path / "command.flags"
        flagfile.write_text(flags.to_flagfile(tiny_config(**OPTIONS, mode="train")))
        capsys.readouterr()
        code = run.main(["run", f"--flagfile={flagfile}", f"--model_dir={folder}"])
        return code, *capsys.readouterr()

    return run_it


def test_a_disk_that_stays_full_ends_in_one_line(command, whole, monkeypatch, room, tmp_path):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        at_steps(patch, {3: functools.partial(room, 1000)})
        code, _, said = command(folder)
        room()
    assert code == 2
    assert re.fullmatch(r"error: the last checkpoint could not be written to .*\n", said)
    assert names(folder / "checkpoints") == steps(1, 2)
    assert not (folder / "result.json").exists()
    code, out, said = command(folder)
    assert (code, said) == (0, "")
    assert f"resumed from step_00000002: 2 of {LAST} steps are done" in out
    last = f"checkpoints/step_{LAST:08d}"
    assert_same(checkpoints.read_arrays(folder / last), checkpoints.read_arrays(whole[0] / last))


def test_a_folder_that_cannot_be_written_ends_in_one_line(command, permissions_count, tmp_path):
    (tmp_path / "mine").mkdir(mode=0o555)
    code, _, said = command(tmp_path / "mine" / "run")
    assert code == 2
    assert said == f"error: --model_dir={tmp_path}/mine/run cannot be made: Permission denied\n"
    code, _, said = command(tmp_path / "mine")
    assert code == 2
    assert said == f"error: --model_dir={tmp_path}/mine cannot be written: Permission denied\n"
    assert names(tmp_path / "mine") == []


def test_arrays_of_an_absurd_size_ask_for_no_memory(whole, tmp_path):
    shutil.copytree(whole[0] / f"checkpoints/step_{LAST:08d}", tmp_path / "huge")
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "huge/variables"),
        tensor_names=["kernel"],
        shape_and_slices=["1000000000000 0,2"],
        tensors=[tf.constant([1.0, 2.0])],
    )
    with pytest.raises(UserError, match="huge cannot be read: it states 4000000000000 bytes"):
        checkpoints.read_arrays(tmp_path / "huge")
