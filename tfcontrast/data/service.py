"""`--data_service`: other machines prepare the batches; their order stays what it is.

The workers of a tf.data service take the steps of a run as they are free, each step once, so that
batches arrive nearly in order. Here they wait for each other in a bounded buffer.
"""

import logging
import re
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfcontrast.data.bad_images import first_line, verdict
from tfcontrast.data.source import Source
from tfcontrast.errors import UserError

_LOG = logging.getLogger(__name__)
_PATIENCE = 5.0  # seconds until an address counts as dead
_AHEAD = 32  # batches that may arrive before the one that is due
_REQUESTED = 8  # batches that are on their way at once


def serve(
    dataset: tf.data.Dataset,
    source: Source,
    address: str,
    *,
    number: Callable[[Any], tf.Tensor],
    start: int,
) -> tf.data.Dataset:
    """Lets a tf.data service make a dataset's elements, and puts them in order.

    The service's workers must reach the files of the data set under the same paths.

    Args:
        dataset: starts from one element a step and calls no Python.
        source: what it reads.
        address: `grpc://host:port` of the service's dispatcher.
        number: the step of an element, an int64 scalar.
        start: the first step.

    Returns:
        The same elements in the order of their steps. When one is lost with its worker, reading
        fails: a run goes on from its last checkpoint.

    Raises:
        UserError: the address does not answer, or only this process can read the source.
    """
    if source.in_process:
        raise UserError(
            f"--data_service: {source.name} holds images that only this process can decode (other "
            "than plain JPEG files, or with a rotation or a colour space); convert them to RGB "
            "JPEG files or leave --data_service out"
        )
    _check_address(address)
    try:
        served = dataset.apply(
            tf.data.experimental.service.distribute(
                tf.data.experimental.service.ShardingPolicy.DYNAMIC,
                address,
                max_outstanding_requests=_REQUESTED,
                compression=None,
            )
        )
    except (tf.errors.OpError, ValueError) as error:
        raise UserError(
            f"--data_service={address} does not take the data set: {first_line(error)}"
        ) from error
    _LOG.info("batches are prepared by the service at %s", address)
    return in_order(served, number, start=start)


def _check_address(address: str) -> None:
    found = re.fullmatch(r"grpc://([^:/\[\]]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", address)
    if not found or not 0 < int(found[2]) < 65536:
        raise UserError(f"--data_service must be like grpc://host:5000. Received: {address!r}")
    try:
        with socket.create_connection((found[1].strip("[]"), int(found[2])), _PATIENCE):
            return
    except OSError as error:
        raise UserError(
            f"--data_service={address} does not answer ({error.strerror or error}); start its "
            "dispatcher and workers first"
        ) from error


def in_order(
    dataset: tf.data.Dataset,
    number: Callable[[Any], tf.Tensor],
    *,
    start: int,
    ahead: int = _AHEAD,
) -> tf.data.Dataset:
    """Sorts elements that arrive nearly in order.

    Args:
        dataset: elements with static shapes whose numbers are start, start + 1, ...
        number: the number of an element, an int64 scalar.
        start: the first number.
        ahead: elements that wait at most; when the one that is due is later than that, it is lost,
            and reading fails.
    """
    spec = dataset.element_spec
    specs = tf.nest.flatten(spec)
    empty = [
        tf.raw_ops.TensorListReserve(
            element_shape=tf.constant(-1), num_elements=ahead, element_dtype=each.dtype
        )
        for each in specs
    ]

    def lost(due: np.int64) -> np.bool_:
        raise verdict(
            f"--data_service: the batch of step {due} did not arrive, a worker of the service was "
            "lost with it; the same command resumes from the last checkpoint"
        )

    def arrive(state: Any, element: Any) -> Any:
        due, here, kept = state
        place = number(element)
        near = tf.logical_and(place >= due, place < due + ahead)
        checked = tf.cond(
            near,
            lambda: tf.constant(True),
            lambda: tf.ensure_shape(tf.numpy_function(lost, [due], tf.bool), []),
        )
        with tf.control_dependencies([checked]):
            slot = tf.cast(place % ahead, tf.int32)
        kept = [
            tf.raw_ops.TensorListSetItem(input_handle=each, index=slot, item=part)
            for each, part in zip(kept, tf.nest.flatten(element), strict=True)
        ]
        here = tf.logical_or(here, tf.range(ahead) == slot)
        turned = tf.roll(here, -tf.cast(due % ahead, tf.int32), 0)
        ready = tf.reduce_sum(tf.math.cumprod(tf.cast(turned, tf.int64)))
        gone = (tf.range(ahead, dtype=tf.int64) - due) % ahead < ready
        left = [_without(each, gone, part.dtype) for each, part in zip(kept, specs, strict=True)]
        return (due + ready, tf.logical_and(here, ~gone), left), (due, ready, kept)

    def depart(due: tf.Tensor, ready: tf.Tensor, kept: Any) -> tf.data.Dataset:
        def element(place: tf.Tensor) -> Any:
            slot = tf.cast(place % ahead, tf.int32)
            parts = [
                tf.raw_ops.TensorListGetItem(
                    input_handle=each,
                    index=slot,
                    element_shape=tf.constant(part.shape.as_list(), tf.int32),
                    element_dtype=part.dtype,
                )
                for each, part in zip(kept, specs, strict=True)
            ]
            return tf.nest.pack_sequence_as(
                spec,
                [tf.ensure_shape(p, s.shape) for p, s in zip(parts, specs, strict=True)],
            )

        return tf.data.Dataset.range(due, due + ready).map(element)

    state = (tf.constant(start, tf.int64), tf.zeros([ahead], tf.bool), empty)
    return dataset.scan(state, arrive).flat_map(depart)


def _without(kept: tf.Tensor, gone: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Lets go of the elements that have left, lest they stay in memory until they are replaced."""
    slots = tf.cast(tf.where(gone)[:, 0], tf.int32)
    nothing = tf.zeros([0], dtype)

    def clear(i: tf.Tensor, handle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        cleared = tf.raw_ops.TensorListSetItem(input_handle=handle, index=slots[i], item=nothing)
        return i + 1, cleared

    _, left = tf.while_loop(lambda i, _: i < tf.size(slots), clear, (0, kept))
    return left
