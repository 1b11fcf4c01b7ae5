"""The cluster of a Slurm step: who takes part, on which port, with which GPUs."""

import os

import tensorflow as tf

from tfcontrast.errors import UserError

# Below the ports that Linux hands out itself; jobs that share a machine get other ports.
_FIRST_PORT, _PORTS_OF_A_JOB, _JOBS = 10_000, 16, 1_400

_OF_A_STEP = (
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_TASKS_PER_NODE",
)


class SlurmResolver(tf.distribute.cluster_resolver.SlurmClusterResolver):
    """TensorFlow's resolver with Slurm's own order of the tasks, and without its hand on the GPUs.

    TensorFlow's sorts the hosts as text, so that on ``n[9-10]`` task 0 is looked for on ``n10``
    while Slurm started it on ``n9``. It also asks ``nvidia-smi`` for GPUs, which machines without
    them do not have, and writes ``CUDA_VISIBLE_DEVICES`` over what Slurm or the user has set there.

    Args:
        num_gpus: GPUs of this task.
        first_port: port of the first task on each host; the others follow.
    """

    def __init__(self, *, num_gpus: int, first_port: int) -> None:
        # Any number that every task gets one of: the GPUs are told by num_accelerators.
        super().__init__(
            port_base=first_port, gpus_per_node=1_000, gpus_per_task=1, auto_set_gpu=False
        )
        self._num_gpus = num_gpus
        self.task_type, self.task_id = "worker", self._rank

    def cluster_spec(self) -> tf.train.ClusterSpec:
        """The addresses of all tasks, by Slurm's rank."""
        hosts = [
            f"{host}:{self._port_base + place}"
            for host, tasks in self._task_configuration.items()
            for place in range(tasks)
        ]
        return tf.train.ClusterSpec({"worker": hosts})

    def num_accelerators(
        self, task_type: str | None = None, task_id: int | None = None, config_proto: object = None
    ) -> dict[str, int]:
        """The GPUs of this task; every task must have equally many."""
        del task_type, task_id, config_proto
        return {"GPU": self._num_gpus}


def in_slurm() -> bool:
    """Whether Slurm started this process."""
    return "SLURM_PROCID" in os.environ


def slurm_resolver() -> SlurmResolver:
    """Reads the cluster from the environment of a Slurm step.

    Where all tasks of a host see all of its GPUs, each keeps its part of them. Must run before
    TensorFlow is first used.

    Returns:
        The resolver for ``MultiWorkerMirroredStrategy``.

    Raises:
        UserError: this is not a step (``srun``) of the job, its variables cannot be read, the tasks
            are not dealt to the hosts block by block, or a host has fewer GPUs than tasks.
    """
    missing = [name for name in _OF_A_STEP if name not in os.environ]
    if missing:
        raise UserError(
            "--strategy=multi_worker: Slurm runs this process, but not as a step of the job; start "
            f"it by srun ({', '.join(missing)} not set)"
        )
    try:
        job = int(os.environ.get("SLURM_JOB_ID", "0"))
        first_port = _FIRST_PORT + _PORTS_OF_A_JOB * (job % _JOBS)
        resolver = SlurmResolver(num_gpus=_take_gpus(), first_port=first_port)
        hosts = resolver.cluster_spec().task_indices("worker")
        if resolver.task_id not in hosts:
            raise ValueError(f"task {resolver.task_id} of {len(hosts)} tasks")
    except (ValueError, RuntimeError) as error:
        raise UserError(
            "--strategy=multi_worker: the SLURM_* variables do not make a cluster "
            f"({str(error).splitlines()[0]})"
        ) from error
    _check_place(resolver)
    return resolver


def _check_place(resolver: SlurmResolver) -> None:
    """Compares where Slurm says that this process runs with where the others will look for it."""
    address = resolver.cluster_spec().task_address("worker", resolver.task_id)
    expected, here = address.rsplit(":", 1)[0], os.environ.get("SLURMD_NODENAME", "")
    if here and here.split(".")[0] != expected.split(".")[0]:
        raise UserError(
            "--strategy=multi_worker needs Slurm's tasks dealt to the hosts block by block "
            f"(srun --distribution=block). Received: task {resolver.task_id} on {here}, where "
            f"{expected} was expected"
        )


def _take_gpus() -> int:
    """Keeps this task's part of the host's GPUs; returns how many that are."""
    gpus = tf.config.list_physical_devices("GPU")
    tasks, place = _tasks_of_host(), int(os.environ.get("SLURM_LOCALID", "0"))
    # With these Slurm itself shows every task its own GPUs only.
    dealt = any(f"SLURM_{name}" in os.environ for name in ("GPUS_PER_TASK", "TRES_PER_TASK"))
    if not gpus or dealt or tasks == 1:
        return len(gpus)
    share = len(gpus) // tasks
    if not share:
        raise UserError(
            f"--strategy=multi_worker: {tasks} tasks share the {len(gpus)} GPUs of a host; start "
            "no more tasks on a host than it has GPUs (srun --ntasks-per-node)"
        )
    tf.config.set_visible_devices(gpus[place * share : (place + 1) * share], "GPU")
    return share


def _tasks_of_host() -> int:
    """Tasks of this step on this host: Slurm writes ``2(x3),1`` for 2, 2, 2 and 1."""
    counts = []
    for part in os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        count, _, times = part.rstrip(")").partition("(x")
        counts += [int(count)] * int(times or 1)
    return max(counts)
