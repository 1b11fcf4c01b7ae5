"""Two processes on this machine train as one does."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tfcontrast.train import checkpoints, loop

OPTIONS = {"train_steps": 3, "monitor_epochs": 2, "checkpoint_steps": 2}

WORKER = """
import json, pathlib, sys
import numpy as np
from tfcontrast import distribute
strategy = distribute.make_strategy("multi_worker")  # before TensorFlow is used
from tfcontrast.train import build, loop, state
from tfcontrast.train.options import make_config
config = make_config(json.loads(sys.argv[1]))
data = build.open_data(config)
with strategy.scope():
    method = build.build_method(config, data)
folder = pathlib.Path(sys.argv[2])
result = loop.train(method, config, data, folder)
np.savez(sys.argv[3], **state.values(state.full_state(method)))
print(json.dumps([distribute.is_chief(strategy), result["last_epoch"]]))
"""


def start_workers(count, options, folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        first = probe.getsockname()[1]
    ports = []
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) and len(ports) < count:
                ports.append(port)
    hosts = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    workers = []
    for index in range(count):
        task = {"cluster": hosts, "task": {"type": "worker", "index": index}}
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "TF_CONFIG": json.dumps(task),
        }
        command = [sys.executable, "-c", WORKER, json.dumps(options), str(folder / "run")]
        command.append(str(folder / f"worker{index}.npz"))
        workers.append(
            subprocess.Popen(
                command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
    return workers


@pytest.mark.slow
def test_two_workers_equal_one_process(tiny_config, build_run, strategy_of, tmp_path):
    config = tiny_config(**OPTIONS)
    method, data = build_run(config, strategy_of(1))
    (tmp_path / "one").mkdir()
    expected = loop.train(method, config, data, tmp_path / "one")["last_epoch"]
    one = checkpoints.read_arrays(tmp_path / "one/checkpoints/step_00000003")

    (tmp_path / "run").mkdir()
    workers = start_workers(2, config.to_dict(), tmp_path)
    outputs = [worker.communicate(timeout=900) for worker in workers]
    for worker, (_, errors) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, errors[-4000:]
    said = [json.loads(out.splitlines()[-1]) for out, _ in outputs]
    assert [chief for chief, _ in said] == [True, False]
    assert len(outputs[1][0].splitlines()) == 1  # only the chief shows progress
    assert len(list((tmp_path / "run").glob("events.*"))) == 1
    two = checkpoints.read_arrays(tmp_path / "run/checkpoints/step_00000003")
    states = [dict(np.load(tmp_path / f"worker{index}.npz")) for index in (0, 1)]
    assert one.keys() == two.keys() == states[0].keys()
    for name, value in one.items():
        # Adam takes whole steps where the probe's gradient cancels to rounding
        atol = 2e-4 * np.abs(value).max(initial=0.1 if name.startswith("probe") else 1e-3)
        np.testing.assert_allclose(two[name], value, 0, atol, err_msg=name)
        for state in states:
            np.testing.assert_array_equal(state[name], two[name], err_msg=name)
    for _, logs in said:
        for name in ("loss", "probe_loss", "contrastive_entropy", "feature_std"):
            assert logs[name] == pytest.approx(expected[name], rel=1e-4)
