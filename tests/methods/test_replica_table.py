"""The same numbers everywhere: {1, 2, 4 replicas; 2 processes} x every method x {LARS, SGD}.

Two replicas are the two processes' for every row, one in each; two in one process, which differ
from these by the collectives' transport only, are there for the rows of LARS. Four are for all.

Five steps on one global batch at a small learning rate. Losses, metrics and every tensor of the
networks agree with one replica to 1e-5 of the value, or of the tensor's largest entry; all state,
the optimizers' too, is the same on every replica bit for bit.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tfcontrast.methods import METHODS
from tfcontrast.train import state

STEPS = 5
# What moves between epochs only.
BETWEEN_EPOCHS = {
    "centroids", "clusters", "clusterings_done", "cluster_nmi", "cluster_use", "largest_cluster",
}  # fmt: skip
# Optimizers are the same for every method: LARS once for in-batch negatives, labels, a classifier.
BOTH = ("simclr", "supcon", "supervised")
TABLE = [(name, "sgd") for name in sorted(METHODS)] + [(name, "lars") for name in BOTH]
IN_ONE_PROCESS = [
    (name, optimizer, replicas)
    for name, optimizer in TABLE
    for replicas in ((2, 4) if optimizer == "lars" else (4,))
]

WORKER = """
import importlib.util, json, sys
import numpy as np
from tfcontrast import distribute
strategy = distribute.make_strategy("multi_worker")  # before TensorFlow is used
from tfcontrast.train import state

parts, table, steps, folder, number = sys.argv[1:]
spec = importlib.util.spec_from_file_location("parts", parts)
parts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parts)
for name, optimizer in json.loads(table):
    method = parts.build_method(name, strategy=strategy, optimizer=optimizer)
    logs = parts.fit_method(method, int(steps))
    values = state.values(state.full_state(method))
    np.savez(f"{folder}/{name}_{optimizer}_{number}.npz", **values)
    print(json.dumps(logs))
"""


@pytest.fixture(scope="module")
def one_replica():
    """What is known of one replica: (name, optimizer) -> (start, logs, state)."""
    return {}


@pytest.fixture
def expected(one_replica, make_method, fit):
    """A function of the method's and the optimizer's name."""

    def run(name, optimizer):
        if (name, optimizer) not in one_replica:
            method = make_method(name, optimizer=optimizer)
            start = copied(method)
            one_replica[name, optimizer] = start, fit(method, STEPS), copied(method)
        return one_replica[name, optimizer]

    return run


def copied(method):
    return {name: value.copy() for name, value in state.values(state.full_state(method)).items()}


# The least scale that slots are compared at. Biases before a batch norm have no gradient but the
# rounding of many that cancel, and these methods have such biases; all others: 1e-3.
SLOT_SCALE = dict.fromkeys(("byol", "nnclr", "deepcluster_v2", "swav"), 5e-2)


def is_network(name):
    return not name.startswith(("probe", "optimizer", "metrics"))


def assert_agree(expected, logs, found, *, slots=1e-3):
    """Compares with one replica.

    Momentum, what began at zero and the probe, which Adam trains, get 2e-4: where a gradient
    cancels, only the rounding of its terms is left, and Adam takes whole steps by it.
    """
    start, wanted_logs, wanted = expected
    assert logs == pytest.approx(wanted_logs, rel=1e-5, abs=1e-7)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        if is_network(name):
            largest = np.abs(value).max()
            moved = np.any(value != start[name])
            assert moved or name in BETWEEN_EPOCHS, f"{name} has not moved"
            # What began at zero, such as beta, is the sum of a few gradients, like a velocity.
            # Some of it is zero but for rounding: the mean of what a batch norm has centred.
            atol = 1e-5 * largest if np.any(start[name]) else max(2e-4 * largest, 2e-8)
            np.testing.assert_allclose(found[name], value, 0, atol, err_msg=name)
        else:
            least = 0.1 if name.startswith("probe") else slots
            atol = 2e-4 * np.abs(value).max(initial=least)
            np.testing.assert_allclose(found[name], value, 0, atol, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optimizer", "replicas"), IN_ONE_PROCESS)
def test_replicas_equal_one(expected, make_method, fit, strategy_of, name, optimizer, replicas):
    one = expected(name, optimizer)
    method = make_method(name, optimizer=optimizer, strategy=strategy_of(replicas))
    for key, value in copied(method).items():
        np.testing.assert_array_equal(value, one[0][key], err_msg=key)
    assert_agree(one, fit(method, STEPS), copied(method), slots=SLOT_SCALE.get(name, 1e-3))
    for key, variable in state.full_state(method).items():
        copies = [copy.numpy() for copy in variable.value.values]
        assert len(copies) == replicas
        for copy in copies[1:]:
            np.testing.assert_array_equal(copy, copies[0], err_msg=key)


@pytest.mark.slow
def test_two_processes_equal_one(expected, start_workers, tmp_path):
    parts = Path(__file__).with_name("conftest.py")
    workers = start_workers(2, WORKER, parts, json.dumps(TABLE), STEPS, tmp_path, "{worker}")
    said = []
    for worker in workers:
        output, errors = worker.communicate(timeout=1200)
        assert worker.returncode == 0, errors[-4000:]
        said.append([json.loads(line) for line in output.splitlines()[-len(TABLE) :]])
    assert said[0] == said[1]
    for (name, optimizer), logs in zip(TABLE, said[0], strict=True):
        first, second = (
            dict(np.load(tmp_path / f"{name}_{optimizer}_{number}.npz")) for number in (0, 1)
        )
        assert_agree(expected(name, optimizer), logs, first, slots=SLOT_SCALE.get(name, 1e-3))
        assert first.keys() == second.keys()
        for key, value in first.items():
            np.testing.assert_array_equal(second[key], value, err_msg=f"{name} {optimizer} {key}")
