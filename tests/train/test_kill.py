"""kill -9 at any moment, and the run that goes on ends as if nothing had happened.

A process that has imported everything and has run nothing, so that it has one thread, forks a
child a life, which goes on in the same folder until it is killed. For a death at a stage of writing
the child mends and saves as a run does, but takes its states from the uninterrupted run, since what
lies on the disk does not depend on the training around it; for the other deaths it trains. What a
death leaves and what the last life ends with are compared with the uninterrupted run.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.train import build, checkpoints, loop, saving
from tfcontrast.train.options import make_config

LAST, EVERY, KEEP = 25, 1, 2
OPTIONS = {
    "train_steps": LAST,
    "checkpoint_steps": EVERY,
    "monitor_epochs": 0,
}

# The moment of death: what Python is about to do to which file. True: the checkpoint that is being
# written is a whole one by then.
TMP, STEP = r"/\.step_\d{8}\.\d+\.tmp", r"/step_\d{8}"
STAGES = {
    "before the data": (rf"os\.mkdir .*{TMP}$", False),
    "in the data": (rf"open .*{TMP}/variables\.data", False),
    "while what a death left is swept away": (rf"os\.remove .*{TMP}/variables\.data", True),
    "after the data": (rf"open .*{TMP}/variables\.data", False),
    "before the manifest": (rf"open .*{TMP}/manifest", False),
    "in the manifest": (rf"open .*{TMP}/manifest", False),
    "before the rename": (rf"os\.rename .*{TMP}$", False),
    "after the rename": (r"open .*/checkpoints$", True),
    "before old ones are deleted": (rf"shutil\.rmtree .*{STEP}$", True),
    "while old ones are deleted": (rf"os\.remove .*{STEP}/", True),
    "replacing: before both renames": (rf"os\.rename .*{STEP}$", True),
    "replacing: between the two renames": (rf"os\.rename .*{TMP}$", True),
    "replacing: while the older is deleted": (rf"os\.remove .*{STEP}\.replaced/", True),
}
SWEEPING = list(STAGES).index("while what a death left is swept away")


def die():
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def die_at(stage, write):
    """Arranges for the death of this process at a stage of its so manieth checkpoint."""
    writes, deleted, dying = 0, "", False

    def hook(event, args):
        nonlocal writes, deleted, dying
        if dying or event not in ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree"):
            return
        path = str(args[0])
        if event == "shutil.rmtree":
            deleted = path
        elif event == "os.remove" and "/" not in path:
            path = f"{deleted}/{path}"  # rmtree names files from within their folder
        writes += re.match(STAGES["before the data"][0], f"{event} {path}") is not None
        dying = writes >= write and re.match(STAGES[stage][0], f"{event} {path}") is not None
        if not dying:
            return
        if stage == "in the data":
            os.truncate(path, os.path.getsize(path) // 2)
            pathlib.Path(path).with_name("variables.index").unlink()
        elif stage == "in the manifest":
            pathlib.Path(path).write_text('{"format": 1, "step": 2, "config": {"met')
        elif "while" in stage:
            pathlib.Path(path).unlink()
        die()

    sys.addaudithook(hook)


class DieAfter(keras.callbacks.Callback):
    """Sends the signal from another thread, some milliseconds after a step has ended."""

    def __init__(self, steps, seconds):
        super().__init__()
        self.left, self.seconds = steps, seconds

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            threading.Timer(self.seconds, die).start()


def save(options, folder, whole):
    """What a run does to the disk, with the states of another run; its epochs never end."""
    found = checkpoints.latest_checkpoint(folder / "checkpoints", mend=True)
    step = found[1]["step"] if found else 0
    saver = saving.Checkpoints(
        folder / "checkpoints", options, every=EVERY, keep=KEEP, last_step=LAST
    )
    optimizer = types.SimpleNamespace(iterations=step)
    saver.set_model(types.SimpleNamespace(optimizer=optimizer, steps_per_execution=1))
    saver.set_params({"steps": LAST + 1})
    saver.on_train_begin()
    saving.state.full_state = lambda _: None
    for done in range(step + 1, LAST):
        saving.state.values = lambda _, done=done: at(whole, done)
        saver.on_train_batch_end(0)


def live(options, folder, death, whole=None):
    """A child's life: trains, or saves another run's states, until it dies or to the end."""
    import plain_views  # beside this script

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    plain_views.use()
    folder = pathlib.Path(folder)
    stage, number, seconds = death.get("stage"), death.get("at"), death.get("seconds")
    if stage:
        replaces = stage.startswith("replacing")
        die_at(stage, 2 * number if replaces else number)
        if replaces:
            write = checkpoints.write_checkpoint
            checkpoints.write_checkpoint = lambda *a, **k: (write(*a, **k), write(*a, **k))[1]
    elif number:
        fit = keras.Model.fit
        keras.Model.fit = lambda self, *a, callbacks, **k: fit(
            self, *a, callbacks=[*callbacks, DieAfter(number, seconds)], **k
        )
    elif seconds:
        threading.Timer(seconds, die).start()
    if whole:
        return save(options, folder, pathlib.Path(whole))
    config = make_config(options)
    data = build.open_data(config)
    return loop.train(build.build_method(config, data), config, data, folder)


def serve():
    """Forks a child for every line of standard input and tells how it ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                live(*json.loads(line))
                code = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            os._exit(code)
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        answers.flush()


@pytest.fixture(scope="module")
def child(tiny_config, tmp_path_factory):
    """Lets a child live in a folder; gives its exit code and what it said.

    It saves the states of a second folder, or trains without one.
    """
    options = tiny_config(**OPTIONS, keep_checkpoint_max=KEEP).to_dict()
    said = tmp_path_factory.mktemp("children") / "said"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with said.open("w") as errors:
        parent = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )

    def run(folder, *whole, **death):
        words = [options, str(folder), death, *map(str, whole)]
        parent.stdin.write(json.dumps(words) + "\n")
        parent.stdin.flush()
        return int(parent.stdout.readline() or 1), said.read_text()[-3000:]

    yield run
    parent.communicate()


@pytest.fixture(scope="module")
def run(tiny_config, build_run, tmp_path_factory):
    """A run that nobody kills, with a checkpoint of every step: its folder, its parts."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny_config(**OPTIONS, keep_checkpoint_max=LAST)
    method, data = build_run(config, tf.distribute.get_strategy())
    loop.train(method, config, data, folder)
    return folder, method, data


def at(folder, step):
    return checkpoints.read_arrays(folder / f"checkpoints/step_{step:08d}")


def ending(folder, kept):
    steps = range(LAST - EVERY * (kept - 1), LAST + 1, EVERY)
    assert names(folder) == [f"step_{step:08d}" for step in steps]
    found, manifest = checkpoints.latest_checkpoint(folder / "checkpoints")
    for time in ("examples_per_second", "input_wait_share"):
        del manifest["logs"][time]
    return checkpoints.read_arrays(found), manifest["logs"]


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def assert_same_arrays(found, expected, where):
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name], err_msg=f"{name}, {where}")


def newest(folder):
    found = checkpoints.latest_checkpoint(folder / "checkpoints", mend=True)
    return found[1]["step"] if found else 0


def survive(lives, whole, folder, deaths):
    """Lives and dies in one folder; what a death spoiled would still be there at the end."""
    folder.mkdir()
    step = 0
    for place, death in enumerate(deaths):
        # without any the death is in the last epoch, whose numbers are compared
        death = death or {"stage": "before the rename", "at": LAST - 2 - step}
        where = f"death {place}: {death}"
        code, said = lives(folder, **death)
        assert code == -signal.SIGKILL, f"{where}: {code}, {said}"
        copy = folder.with_name(f"{folder.name}{place}")
        shutil.copytree(folder, copy)  # looking at it mends it
        now = newest(copy)
        if "stage" in death:
            committed = STAGES[death["stage"]][1]
            assert now == step + EVERY * (death["at"] - 1 + committed), where
        assert step <= now < LAST - EVERY, where
        if now:
            assert_same_arrays(at(copy, now), at(whole, now), where)
        step = now
        if "stage" not in death and step > LAST // 2:  # else one might end before it is killed
            shutil.rmtree(folder / "checkpoints")
            step = 0


def assert_ends_as(whole, folder):
    found, expected = ending(folder, KEEP), ending(whole, LAST)
    assert found[1] == expected[1]
    assert_same_arrays(found[0], expected[0], "the last life")


@pytest.mark.slow
def test_killed_at_every_stage_of_writing(child, run, tiny_config, scramble, tmp_path):
    whole, method, data = run
    rng = np.random.default_rng(7)
    stages = [{"stage": stage, "at": int(rng.integers(1, 3))} for stage in STAGES]
    stages[SWEEPING]["at"] = 0  # at the start of a life
    folder = tmp_path / "stages"
    survive(lambda folder, **death: child(folder, whole, **death), whole, folder, stages)
    scramble(method)
    loop.train(method, tiny_config(**OPTIONS, keep_checkpoint_max=KEEP), data, folder)
    assert_ends_as(whole, folder)


@pytest.mark.slow
def test_killed_at_random_while_it_trains(child, run, tmp_path):
    whole, *_ = run
    rng = np.random.default_rng(7)
    steps = [
        {"at": int(rng.integers(1, 4)), "seconds": float(rng.uniform(0, 0.03))} for _ in range(2)
    ]
    starts = [{"seconds": float(rng.uniform(0, 3))}]
    folder = tmp_path / "random"
    survive(child, whole, folder, [steps[0], *starts, steps[1], None])
    code, said = child(folder)
    assert code == 0, said
    assert_ends_as(whole, folder)


if __name__ == "__main__":
    serve()
