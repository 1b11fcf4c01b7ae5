"""Signals to a whole run, wherever it is: it ends in time, and the same command goes on exactly."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import flags, run
from tfcontrast.train import checkpoints, interruption

LAST = 12
SERVER = pathlib.Path(__file__).with_name("signalled_runs.py")
OPTIONS = {
    "train_steps": LAST,
    "checkpoint_steps": 3,
    "keep_checkpoint_max": 2,
    "monitor_epochs": 1,
    "eval_batch_size": 64,
    "eval_baselines": False,
}


class Child:
    """A run in a process of its own, met at a place."""

    def __init__(self, parent, folder, words, where, seconds):
        self._answers, self._said, self.code = parent.stdout, folder / "said", None
        ready = folder / "ready"
        line = json.dumps([words, where, str(ready), seconds, str(self._said)])
        print(line, file=parent.stdin, flush=True)
        self.number = int(self._answers.readline())
        self._ready, self._folder, self._where = ready, folder, where

    def meet(self):
        """Waits until it is there."""
        awaited = [self._ready]
        if self._where == "waiting_for_data":  # data are read ahead: those before are to be used
            awaited.append(self._folder / "run/checkpoints/step_00000006")
        end = time.monotonic() + 400
        while not all(path.exists() for path in awaited):
            assert time.monotonic() < end, self.lines("err")
            assert pathlib.Path(f"/proc/{self.number}").exists(), self.lines("err")
            time.sleep(0.01)
        time.sleep(0.5)

    def lines(self, stream):
        return pathlib.Path(f"{self._said}.{stream}").read_text().splitlines()

    def signal(self, *numbers):
        """Sends signals, half a second apart; gives the seconds until the end."""
        start = time.monotonic()
        for place, number in enumerate(numbers):
            time.sleep(0.5 if place else 0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.number, number)
        self.code = int(self._answers.readline())
        return time.monotonic() - start

    def left(self):
        """Processes of its session that outlive it."""
        found = []
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(stat.read_text().rpartition(")")[2].split()[3]) == self.number:
                    found.append(stat)
        return found


@pytest.fixture(scope="module")
def parent():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, SERVER], env=environment, text=True, **pipes) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def meet(parent, tmp_path):
    """Starts a run in ``tmp_path`` and meets it at a place."""
    children = []

    def start(words, where, seconds):
        children.append(Child(parent, tmp_path, words, where, seconds))
        children[0].meet()
        return children[0]

    yield start
    for child in children:
        if child.code is None:
            child.signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def words(tiny_config, tmp_path_factory):
    """A run's command but for its folder."""
    flagfile = tmp_path_factory.mktemp("flags") / "flags"
    flagfile.write_text(flags.to_flagfile(tiny_config(**OPTIONS)))
    return [f"--flagfile={flagfile}"]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory):
    """What a run leaves that nobody stops, and its state after every step."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    every = ["--checkpoint_steps=1", "--keep_checkpoint_max=100"]
    assert run.main(["run", *words, *every, f"--model_dir={folder}"]) == 0
    found = checkpoints.list_checkpoints(folder / "checkpoints")
    return everything(folder), {path.name: checkpoints.read_arrays(path) for path in found}


def everything(folder):
    """What a run leaves: its state, its numbers, its TensorBoard points; without times."""
    found, manifest = checkpoints.latest_checkpoint(folder / "checkpoints")
    assert manifest["step"] == LAST
    result = json.loads((folder / "result.json").read_text())
    times = ("examples_per_second", "input_wait_share")
    logs = {n: v for n, v in result["train"]["last_epoch"].items() if n not in times}
    points = {}
    for path in folder.glob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag not in ("views", *times):
                    points[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    assert {step for tag, step in points if tag == "monitor_knn_top1"} == {5, 10, 12}
    return checkpoints.read_arrays(found), logs, points, result["evaluation"]


def half_files(folder):
    return [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".replaced"))]


def assert_same_arrays(found, expected):
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def assert_same(found, expected):
    assert found[1:] == expected[1:]
    assert_same_arrays(found[0], expected[0])


def assert_left(folder, steps, whole):
    """Whole checkpoints of these steps, bit for bit those of the run that nobody stopped."""
    found = checkpoints.list_checkpoints(folder / "checkpoints")
    assert [path.name for path in found] == [f"step_{step:08d}" for step in steps]
    for path in found:
        assert_same_arrays(checkpoints.read_arrays(path), whole[1][path.name])


# Nothing, or what a signal while saving leaves: to go on from there is another case's part.
THE_SAME_IS_LEFT = ("opening_data", "waiting_for_data")
SAVED = "stopped by {} after step {} of 12, saved; the same command goes on from there"
AT_ONCE = "stopped by {}; the same command goes on from {}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "seconds", "name", "line", "steps"),
    [
        ("in_a_step", 1, "SIGTERM", SAVED.format("SIGTERM", 7), [6, 7]),
        ("in_the_monitor", 1, "SIGUSR1", SAVED.format("SIGUSR1", 10), [9, 10]),
        ("while_saving", 1, "SIGINT", SAVED.format("SIGINT", 6), [3, 6]),
        ("in_the_evaluation", 99, "SIGTERM", AT_ONCE.format("SIGTERM", "step_00000012"), [9, 12]),
        ("opening_data", 99, "SIGINT", AT_ONCE.format("SIGINT", "the last checkpoint"), []),
        ("waiting_for_data", 99, "SIGTERM", "stopped by SIGTERM in something that did not", [3, 6]),
    ],
)
def test_a_signal_ends_in_time_and_the_rest_is_the_same(
    meet, words, whole, tmp_path, capsys, where, seconds, name, line, steps
):
    words = [*words, f"--model_dir={tmp_path}/run"]
    child = meet(words, where, seconds)
    took = child.signal(signal.Signals[name])
    said = child.lines("err")
    assert child.code == interruption.RESUME_ME, said
    assert took < 30
    assert said[-1].startswith(line)
    assert len(said) == (1 if seconds == 99 and where != "waiting_for_data" else 2)
    assert child.left() == []
    folder = tmp_path / "run"
    assert half_files(tmp_path) == []
    if not steps:
        assert not folder.exists()
    assert_left(folder, steps, whole)
    if where in THE_SAME_IS_LEFT:
        return
    assert run.main(["run", *words]) == 0
    assert_same(everything(folder), whole[0])
    lines = [*child.lines("out"), *capsys.readouterr().out.splitlines()]
    epochs = [" ".join(text.split()[:4]) for text in lines if text.startswith("epoch ")]
    assert epochs == ["epoch 1/3 step 5/12", "epoch 2/3 step 10/12", "epoch 3/3 step 12/12"]
    assert not (folder / ".lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["while_saving", "waiting_for_data"])
def test_a_second_signal_ends_at_once(meet, words, whole, tmp_path, where):
    words = [*words, f"--model_dir={tmp_path}/run"]
    child = meet(words, where, 99)
    took = child.signal(signal.SIGTERM, signal.SIGTERM)
    said = child.lines("err")
    assert child.code == 128 + signal.SIGTERM, said
    assert took < 3
    assert said[0] == "SIGTERM: saving after this step; send another signal to stop at once"
    last = "step_00000003" if where == "while_saving" else "step_00000006"
    assert said[1:] == [f"ended at once; the same command goes on from {last}"]
    assert child.left() == []
    assert_left(tmp_path / "run", [3] if where == "while_saving" else [3, 6], whole)
    if where == "waiting_for_data":  # the same is left as above, after one signal
        return
    assert run.main(["run", *words]) == 0
    assert half_files(tmp_path) == []
    assert_same(everything(tmp_path / "run"), whole[0])
