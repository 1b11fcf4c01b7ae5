"""From ``--strategy`` to devices: one, several GPUs, several machines or a TPU."""

import json
import os

import tensorflow as tf

from tfcontrast.errors import UserError

STRATEGIES = ("auto", "none", "mirrored", "multi_worker", "tpu")


def make_strategy(
    name: str = "auto", *, num_replicas: int = 0, tpu_name: str = ""
) -> tf.distribute.Strategy:
    """Makes the strategy that ``--strategy`` names.

    Args:
        name: ``auto`` (several GPUs: ``mirrored``; else ``none``), ``none`` (one device, no
            strategy, so that XLA stays available), ``mirrored``, ``multi_worker`` (the cluster
            comes from ``TF_CONFIG``) or ``tpu``.
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
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        raise UserError(
            "--strategy=multi_worker reads the cluster from the TF_CONFIG environment variable, "
            "which is not set"
        )
    try:
        cluster = json.loads(text)
        workers, task = cluster["cluster"]["worker"], cluster["task"]
        task["type"], workers[0], int(task["index"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            'TF_CONFIG must be like {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            f'"worker", "index": 0}}}}. Received: {text!r}'
        ) from error
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(
            f"--strategy=multi_worker: the cluster of TF_CONFIG did not come up "
            f"({str(error).splitlines()[0]})"
        ) from error


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the files: always, but for the other workers of several."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return True
    resolver = strategy.cluster_resolver
    if resolver.task_type == "worker" and "chief" not in resolver.cluster_spec().jobs:
        return bool(resolver.task_id == 0)
    return bool(resolver.task_type == "chief")


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
