"""A signal to one of two processes that train together."""

import re
import signal
import time

import numpy as np
import pytest

from tfcontrast import flags
from tfcontrast.train import checkpoints, interruption

STEPS = 20

COMMAND = """
import functools, sys
from tfcontrast import data as data_lib, run
data_lib.train_dataset = functools.partial(data_lib.train_dataset, jit_compile=False)
sys.exit(run.main(["run", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_both_stop_after_the_same_step_and_go_on_exactly(tiny_config, start_workers, tmp_path):
    config = tiny_config(
        strategy="multi_worker", mode="train", monitor_epochs=20, train_steps=STEPS
    )
    (tmp_path / "flags").write_text(flags.to_flagfile(config))

    def start(name):
        return start_workers(
            2, COMMAND, f"--flagfile={tmp_path}/flags", f"--model_dir={tmp_path / name}"
        )

    def finish(workers):
        said = [worker.communicate(timeout=900) for worker in workers]
        assert [worker.returncode for worker in workers] == [0, 0], said

    finish(start("whole"))
    workers = start("run")
    awaited = tmp_path / "run/checkpoints/step_00000005"
    while not awaited.is_dir():
        assert [worker.poll() for worker in workers] == [None, None]
        time.sleep(0.01)
    begin = time.monotonic()
    workers[1].send_signal(signal.SIGTERM)
    said = [worker.communicate(timeout=120)[1] for worker in workers]
    assert time.monotonic() - begin < 30
    assert [worker.returncode for worker in workers] == [interruption.RESUME_ME] * 2, said
    pattern = r"stopped by {} after step (\d+) of 20, saved; the same command goes on from there"
    steps = [
        int(re.fullmatch(pattern.format(who), text.splitlines()[-1])[1])
        for who, text in zip(("another worker", "SIGTERM"), said, strict=True)
    ]
    _, manifest = checkpoints.latest_checkpoint(tmp_path / "run/checkpoints")
    assert steps == [manifest["step"]] * 2
    assert 5 <= steps[0] < STEPS
    finish(start("run"))
    one, two = (
        checkpoints.read_arrays(tmp_path / f"{name}/checkpoints/step_{STEPS:08d}")
        for name in ("whole", "run")
    )
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(two[name], value, err_msg=name)
