"""One of two processes that train together gets a signal or is killed: the same command goes on."""

import re
import signal
import time

import numpy as np
import pytest

from tfcontrast import flags
from tfcontrast.train import checkpoints, interruption

STEPS = 30

COMMAND = """
import sys
import plain_views
from tfcontrast import run
plain_views.use()
sys.exit(run.main(["run", *sys.argv[1:]]))
"""


def wait_for(path, workers):
    end = time.monotonic() + 300
    while not path.is_dir():
        assert time.monotonic() < end
        assert [worker.poll() for worker in workers] == [None, None]
        time.sleep(0.01)


def finish(workers):
    said = [worker.communicate(timeout=900) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said


def kill(workers, killed):
    """kill -9 of one: the other ends, and says how to go on."""
    workers[killed].kill()
    _, said = workers[1 - killed].communicate(timeout=120)
    assert workers[1 - killed].returncode == interruption.RESUME_ME, said
    last = said.splitlines()[-1]
    assert re.fullmatch("a worker was lost .*; restart all workers.*", last), said
    assert "Traceback" not in said


def stop(workers, folder, least):
    """A signal to the second: both stop after the same step, which is saved."""
    begin = time.monotonic()
    workers[1].send_signal(signal.SIGTERM)
    said = [worker.communicate(timeout=120)[1] for worker in workers]
    assert time.monotonic() - begin < 30
    assert [worker.returncode for worker in workers] == [interruption.RESUME_ME] * 2, said
    pattern = r"stopped by {} after step (\d+) of 30, saved; the same command goes on from there"
    steps = [
        int(re.fullmatch(pattern.format(who), text.splitlines()[-1])[1])
        for who, text in zip(("another worker", "SIGTERM"), said, strict=True)
    ]
    _, manifest = checkpoints.latest_checkpoint(folder / "checkpoints")
    assert steps == [manifest["step"]] * 2
    assert least <= steps[0] < STEPS


@pytest.mark.slow
def test_when_a_worker_is_killed_or_stopped_the_same_command_goes_on_exactly(
    tiny_config, start_workers, tmp_path
):
    """Each of two workers is killed, one is stopped; the end is that of two who were let be."""
    config = tiny_config(
        strategy="multi_worker", mode="train", monitor_epochs=20, train_steps=STEPS
    )
    flagfile, folder = tmp_path / "flags", tmp_path / "run"
    flagfile.write_text(flags.to_flagfile(config))

    def start(name):
        return start_workers(2, COMMAND, f"--flagfile={flagfile}", f"--model_dir={tmp_path}/{name}")

    finish(start("whole"))
    breaks = (
        (4, lambda workers: kill(workers, 1)),
        (9, lambda workers: stop(workers, folder, 9)),
        (18, lambda workers: kill(workers, 0)),
    )
    for step, break_off in breaks:
        workers = start("run")
        wait_for(folder / f"checkpoints/step_{step:08d}", workers)
        break_off(workers)
    (tmp_path / "run0").symlink_to("run")  # and the other's run1 is empty
    for worker in start("run{worker}"):
        _, said = worker.communicate(timeout=300)
        assert worker.returncode == 2, said
        assert said.splitlines()[-1].startswith("error: the workers see different checkpoints in ")
    finish(start("run"))
    one, two = (
        checkpoints.read_arrays(tmp_path / f"{name}/checkpoints/step_{STEPS:08d}")
        for name in ("whole", "run")
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(two[name], value, err_msg=name)
