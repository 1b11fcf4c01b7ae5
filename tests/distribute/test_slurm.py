import json
import os

import pytest
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.distribute import slurm
from tfcontrast.errors import UserError


@pytest.fixture
def step(monkeypatch):
    """Sets the environment of a Slurm step: one task on this machine, and what a test changes."""

    def set_variables(**changes):
        for name in [name for name in os.environ if name.startswith("SLURM")]:
            monkeypatch.delenv(name)
        monkeypatch.delenv("TF_CONFIG", raising=False)
        alone = {
            "SLURM_JOB_ID": "7",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_STEP_NUM_TASKS": "1",
            "SLURM_STEP_NODELIST": "n1",
            "SLURM_STEP_TASKS_PER_NODE": "1",
        }
        for name, value in {**alone, **changes}.items():
            if value is not None:
                monkeypatch.setenv(name, value)

    return set_variables


def test_a_step_of_one_task_without_gpus(step, monkeypatch):
    step()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    resolver = slurm.slurm_resolver()
    assert isinstance(resolver, tf.distribute.cluster_resolver.SlurmClusterResolver)
    assert resolver.cluster_spec().as_dict() == {"worker": ["n1:10112"]}
    assert (resolver.task_type, resolver.task_id) == ("worker", 0)
    assert resolver.num_accelerators() == {"GPU": 0}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"


def test_tasks_have_slurms_order_on_several_hosts(step):
    step(
        SLURM_PROCID="3",
        SLURM_STEP_NUM_TASKS="5",
        SLURM_STEP_NODELIST="n[9-10],gpu",
        SLURM_STEP_TASKS_PER_NODE="2(x2),1",
        SLURMD_NODENAME="n10.cluster",
        SLURM_JOB_ID="1401",
    )
    resolver = slurm.slurm_resolver()
    tasks = ["n9:10016", "n9:10017", "n10:10016", "n10:10017", "gpu:10016"]
    assert resolver.cluster_spec().as_dict() == {"worker": tasks}
    assert resolver.task_id == 3
    assert resolver.master() == "grpc://n10:10017"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_STEP_NODELIST": None}, r"start it by srun \(SLURM_STEP_NODELIST not set\)$"),
        ({"SLURM_STEP_NODELIST": "n[1-"}, r"do not make a cluster \(.*n\[1-.*\)$"),
        ({"SLURM_STEP_NODELIST": ""}, r"do not make a cluster \(.+\)$"),
        ({"SLURM_STEP_TASKS_PER_NODE": "x"}, r"do not make a cluster \(.+\)$"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, r"do not make a cluster \(.*2 tasks.*\)$"),
        ({"SLURM_PROCID": "1"}, r"do not make a cluster \(task 1 of 1 tasks\)$"),
        ({"SLURM_PROCID": "one"}, r"do not make a cluster \(.*'one'.*\)$"),
        ({"SLURM_JOB_ID": ""}, r"do not make a cluster \(.+\)$"),
        ({"SLURMD_NODENAME": "n2"}, r"--distribution=block.*Received: task 0 on n2, where n1 was"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(step, changes, message):
    step(**changes)
    with pytest.raises(UserError, match=message) as caught:
        slurm.slurm_resolver()
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("--strategy=multi_worker")


@pytest.mark.parametrize(
    ("gpus", "changes", "kept"),
    [
        (2, {}, None),
        (4, {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}, [2, 3]),
        (3, {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}, [1]),
        (2, {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_GPUS_PER_TASK": "2"}, None),
    ],
)
def test_gpus_of_a_host_are_shared_by_its_tasks(step, monkeypatch, gpus, changes, kept):
    count = changes.get("SLURM_STEP_TASKS_PER_NODE", "1")
    step(SLURM_STEP_NUM_TASKS=count, **changes)
    taken = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: list(range(gpus)))
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *a: taken.append(a))
    resolver = slurm.slurm_resolver()
    assert taken == ([] if kept is None else [(kept, "GPU")])
    assert resolver.num_accelerators() == {"GPU": gpus if kept is None else len(kept)}


def test_more_tasks_than_gpus(step, monkeypatch):
    step(SLURM_STEP_NUM_TASKS="2", SLURM_STEP_TASKS_PER_NODE="2")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    with pytest.raises(UserError, match=r"2 tasks share the 1 GPUs of a host"):
        distribute.make_strategy("multi_worker")


_TASK = """
import json, os, sys
task, tasks, base = sys.argv[1:]
del os.environ["TF_CONFIG"]
os.environ.update(
    SLURM_JOB_ID=base, SLURM_PROCID=task, SLURM_LOCALID=task, SLURM_STEP_NUM_TASKS=tasks,
    SLURM_STEP_NODELIST="localhost", SLURM_STEP_TASKS_PER_NODE=tasks,
)
import numpy as np
import tensorflow as tf
from tfcontrast import distribute

strategy = distribute.make_strategy("multi_worker")
shares = []

def dataset(context):
    shares.append(distribute.worker_share(context))
    return tf.data.Dataset.range(1)

strategy.distribute_datasets_from_function(dataset)
me, images = int(task), np.arange(8 * 3).reshape(8, 3)

@tf.function
def exchange():
    def step():
        count, order = 8 // int(tasks), distribute.permutation(8, seed=0, step=1)
        results = []
        for dtype in ("uint8", "bfloat16"):
            rows = tf.cast(images[me * count : (me + 1) * count], dtype)
            dealt = distribute.shuffle(rows, order)
            home = distribute.unshuffle(dealt, order)
            results += [order, dealt, home - rows, distribute.gather(rows)]
        return results
    return strategy.run(step)

print(json.dumps({
    "chief": distribute.is_chief(strategy),
    "workers": distribute.num_workers(strategy),
    "replicas": strategy.num_replicas_in_sync,
    "share": shares[0],
    "flags": [distribute.any_worker(strategy, f) for f in (False, me == 0, me == 1, True, False)],
    "exchange": [value.numpy().astype(int).tolist() for value in exchange()],
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 2])
def test_tasks_of_a_step_train_together(start_workers, tasks):
    job = os.getpid() % 1300 + tasks
    outputs = []
    workers = start_workers(tasks, _TASK, "{worker}", tasks, job)
    for worker in workers:
        output, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors[-4000:]
        outputs.append(json.loads(output.splitlines()[-1]))
    images = [[3 * row, 3 * row + 1, 3 * row + 2] for row in range(8)]
    rows = 8 // tasks
    for task, said in enumerate(outputs):
        assert (said["chief"], said["workers"], said["replicas"]) == (task == 0, tasks, tasks)
        assert said["share"] == [task, 1, tasks]
        assert said["flags"] == [False, True, tasks == 2, True, False]
        for first in (0, 4):  # uint8, bfloat16
            order, dealt, moved, everyone = said["exchange"][first : first + 4]
            assert dealt == [images[i] for i in order[task * rows : (task + 1) * rows]]
            assert moved == [[0, 0, 0]] * rows
            assert everyone == images
