"""From ``--strategy`` to devices: one, several GPUs, several machines or a TPU."""

import functools
import json
import os
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from tfcontrast.distribute.collectives import all_sum, replica_id
from tfcontrast.distribute.slurm import in_slurm, slurm_resolver
from tfcontrast.errors import UserError

STRATEGIES = ("auto", "none", "mirrored", "multi_worker", "tpu")


def has_accelerator() -> bool:
    """Whether networks run on a GPU or a TPU here, and not on the host's processors."""
    return any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))


def make_strategy(
    name: str = "auto", *, num_replicas: int = 0, tpu_name: str = ""
) -> tf.distribute.Strategy:
    """Makes the strategy that ``--strategy`` names.

    Args:
        name: ``auto`` (several GPUs: ``mirrored``; else ``none``), ``none`` (one device, no
            strategy, so that XLA stays available), ``mirrored``, ``multi_worker`` (the cluster
            comes from ``TF_CONFIG``, or else from Slurm) or ``tpu``.
        num_replicas: replicas of ``mirrored``; 0 takes every GPU. On a machine without GPUs the CPU
            is split into this many logical devices, which must happen before TensorFlow is first
            used.
        tpu_name: name or address of the TPU; empty means a local TPU VM.

    Returns:
        A strategy; the default (no-op) strategy for ``none``.

    Raises:
        UserError: the devices that were asked for are not there.
    """
    if name not in STRATEGIES:
        raise UserError(f"--strategy must be one of {', '.join(STRATEGIES)}. Received: {name!r}")
    if num_replicas < 0:
        raise UserError(f"--num_replicas must not be negative. Received: {num_replicas}")
    if num_replicas > 1 and name not in ("auto", "mirrored"):
        raise UserError(
            f"--num_replicas is for --strategy=mirrored. Received: {num_replicas} with "
            f"--strategy={name}"
        )
    gpus = tf.config.list_physical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 or num_replicas > 1 else "none"
    if name == "none":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        return _mirrored(len(gpus), num_replicas)
    if name == "multi_worker":
        return _multi_worker()
    return _tpu(tpu_name)


def _mirrored(num_gpus: int, num_replicas: int) -> tf.distribute.Strategy:
    if num_gpus:
        wanted = num_replicas or num_gpus
        if wanted > num_gpus:
            raise UserError(
                f"--num_replicas={wanted} needs as many GPUs; this machine has {num_gpus}"
            )
        return tf.distribute.MirroredStrategy([f"GPU:{i}" for i in range(wanted)])
    wanted = num_replicas or 1
    if wanted > len(tf.config.list_logical_devices("CPU") if _is_initialized() else ()):
        cpu = tf.config.list_physical_devices("CPU")[0]
        try:
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * wanted
            )
        except RuntimeError as error:
            raise UserError(
                f"--num_replicas={wanted}: the CPU cannot be split any more, TensorFlow is "
                f"already running ({error})"
            ) from error
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(wanted)])


def _is_initialized() -> bool:
    """Whether TensorFlow has fixed its devices; asking for logical devices would fix them."""
    from tensorflow.python.eager import context

    return bool(context.context()._initialized)


def _multi_worker() -> tf.distribute.Strategy:
    if os.environ.get("TF_CONFIG"):
        _check_tf_config(os.environ["TF_CONFIG"])
        source, resolver = "TF_CONFIG", None
    elif in_slurm():
        source, resolver = "the Slurm step", slurm_resolver()
    else:
        raise UserError(
            "--strategy=multi_worker reads the cluster from the TF_CONFIG environment variable or "
            "from Slurm (srun); neither is there"
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            f"--strategy=multi_worker: the cluster of {source} did not come up "
            f"({str(error).splitlines()[0]})"
        ) from error


def _check_tf_config(text: str) -> None:
    try:
        cluster = json.loads(text)
        workers, task = cluster["cluster"]["worker"], cluster["task"]
        task["type"], workers[0], int(task["index"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            'TF_CONFIG must be like {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            f'"worker", "index": 0}}}}. Received: {text!r}'
        ) from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the files: always, but for the other workers of several."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    resolver = strategy.cluster_resolver
    if resolver.task_type == "worker" and "chief" not in resolver.cluster_spec().jobs:
        return bool(resolver.task_id == 0)
    return bool(resolver.task_type == "chief")


def num_workers(strategy: tf.distribute.Strategy) -> int:
    """How many processes train together; 1 but for several workers."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    jobs = strategy.cluster_resolver.cluster_spec().as_dict()
    return max(1, sum(len(jobs.get(job, ())) for job in ("chief", "worker")))


def worker_share(context: tf.distribute.InputContext) -> tuple[int, int, int]:
    """Which part of every global batch a process feeds.

    Args:
        context: what ``strategy.distribute_datasets_from_function`` gives to its function.

    Returns:
        (first replica that this process feeds, replicas that it feeds, all replicas).

    Raises:
        ValueError: the processes do not feed equally many replicas.
    """
    replicas, processes = context.num_replicas_in_sync, context.num_input_pipelines
    if replicas % processes:
        raise ValueError(
            f"every process must feed equally many replicas. Received: {replicas} replicas and "
            f"{processes} processes"
        )
    local = replicas // processes
    return context.input_pipeline_id * local, local, replicas


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Agrees on a flag, such as "stop now": whether any worker raises it.

    Every worker must call it between the same two steps, outside of ``strategy.run``; it costs one
    collective of four bytes. With one worker it is the flag itself.

    Args:
        strategy: the strategy of the run.
        flag: what this worker says.

    Returns:
        The same on every worker.
    """
    if num_workers(strategy) == 1:
        return flag
    total = _flag_sum(strategy)(tf.constant(float(flag)))
    return bool(strategy.experimental_local_results(total)[0] > 0)


@functools.lru_cache(maxsize=1)
def _flag_sum(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    def on_device(flag: tf.Tensor) -> tf.Tensor:
        return all_sum(tf.identity(flag))  # an argument is on no device yet

    # Made once: tracing takes longer than a step.
    return tf.function(lambda flag: strategy.run(on_device, args=(flag,)))


def chiefs_arrays(
    strategy: tf.distribute.Strategy, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Gives every worker the chief's numbers; every worker must call it, outside of a step.

    Args:
        strategy: the strategy of the run.
        arrays: by name; the same names, shapes and kinds on every worker.

    Returns:
        The chief's arrays; with one worker those that were given.
    """
    if num_workers(strategy) == 1:
        return dict(arrays)
    share, found = _from_first(strategy), dict(arrays)
    for kind in sorted({str(array.dtype) for array in arrays.values()}):
        names = [name for name, array in arrays.items() if array.dtype == kind]
        flat = np.concatenate([arrays[name].ravel() for name in names])  # one collective a kind
        total = strategy.experimental_local_results(share(tf.constant(flat)))[0].numpy()
        ends = np.cumsum([arrays[name].size for name in names])[:-1]
        for name, part in zip(names, np.split(total, ends), strict=True):
            found[name] = part.reshape(arrays[name].shape)
    return found


@functools.lru_cache(maxsize=1)
def _from_first(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], tf.Tensor]:
    def on_device(values: tf.Tensor) -> tf.Tensor:
        return all_sum(tf.where(replica_id() == 0, values, tf.zeros([], values.dtype)))

    return tf.function(lambda values: strategy.run(on_device, args=(values,)))


def _tpu(tpu_name: str) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu_name or "local")
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, tf.errors.OpError) as error:
        raise UserError(
            f"--strategy=tpu: no TPU answered at {tpu_name or 'this machine'!r} "
            f"({str(error).splitlines()[0]})"
        ) from error
    return tf.distribute.TPUStrategy(resolver)
