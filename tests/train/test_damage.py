"""A damaged checkpoint, a full disk, a folder without write permission: no work is lost."""

import ctypes
import functools
import re
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import flags, run
from tfcontrast.train import checkpoints, loop

LAST, OLDER, NEWEST = 10, 8, 9
OPTIONS = {"train_steps": LAST, "monitor_epochs": 2}


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit": lambda checkpoint: flip_a_bit(checkpoint / "variables.data-00000-of-00001"),
    "no manifest": lambda checkpoint: (checkpoint / "manifest.json").unlink(),
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


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_goes_on_from_the_older_one_bit_for_bit(begun, resume, caplog, damage):
    folder = begun(OLDER, NEWEST)
    DAMAGES[damage](folder / f"checkpoints/step_{NEWEST:08d}")
    resume(folder)
    told = [r.getMessage() for r in caplog.records if r.name.startswith("tfcontrast")]
    assert len(told) == 1
    assert f"step_{NEWEST:08d} is not a whole checkpoint" in told[0]
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
