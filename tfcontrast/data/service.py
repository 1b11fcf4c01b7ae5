"""`--data_service`: other machines prepare the batches; their order stays what it is.

The workers of a tf.data service take the steps of a run as they are free, each step once, so that
batches arrive nearly in order. Here they wait for each other in a bounded buffer, and a batch that
is too late, or is lost with its worker, is made here.
"""

import logging
import re
import socket
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfcontrast.data.bad_images import first_line
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
    make: Callable[[tf.Tensor], tf.data.Dataset],
) -> tf.data.Dataset:
    """Lets a tf.data service make a dataset's elements, and puts them in order.

    The service's workers must reach the files of the data set under the same paths.

    Args:
        dataset: starts from one element a step and calls no Python.
        source: what it reads.
        address: `grpc://host:port` of the service's dispatcher.
        number: the step of an element, an int64 scalar.
        start: the first step.
        make: makes the element of a step in this process, as a data set of one.

    Returns:
        The same elements in the order of their steps.

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
    return in_order(served, number, start=start, make=make)


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
    make: Callable[[tf.Tensor], tf.data.Dataset],
    ahead: int = _AHEAD,
) -> tf.data.Dataset:
    """Sorts elements that arrive nearly in order, and makes up for the missing.

    Args:
        dataset: elements with static shapes whose numbers are start, start + 1, ... in some order.
        number: the number of an element, an int64 scalar.
        start: the first number.
        make: makes the element of a number, as a data set of one.
        ahead: elements that wait at most. When one arrives that is `ahead` numbers later than the
            one that is due, the latter is made here, and left out should it still come.

    Returns:
        Every element once, in the order of the numbers.
    """
    spec = dataset.element_spec
    specs = tf.nest.flatten(spec)
    slots = tf.range(ahead, dtype=tf.int64)

    def arrive(state: Any, element: Any) -> Any:
        due, here, kept = state
        place = number(element)
        slot = tf.cast(place % ahead, tf.int32)
        in_time = place >= due
        # A slot is free for its new owner only after the old one has left, so what must leave is
        # counted first: what is at the front, and what is too late to be waited for.
        overdue = tf.maximum(place - ahead + 1 - due, 0)
        kept_before, here_before = kept, here
        here = tf.logical_and(here, (slots - due) % ahead >= overdue)
        here = tf.logical_or(here, tf.logical_and(in_time, slots == place % ahead))
        front = tf.roll(here, -tf.cast((due + overdue) % ahead, tf.int32), 0)
        ready = overdue + tf.reduce_sum(tf.math.cumprod(tf.cast(front, tf.int64)))
        kept = tuple(
            tf.cond(in_time, lambda h=each, p=part: _put(h, slot, p), lambda h=each: h)
            for each, part in zip(kept, tf.nest.flatten(element), strict=True)
        )
        gone = (slots - due - overdue) % ahead < ready - overdue
        left = tuple(_clear(each, gone, part.dtype) for each, part in zip(kept, specs, strict=True))
        leaving = (due, overdue, here_before, kept_before), (due + overdue, ready - overdue, kept)
        return (due + ready, tf.logical_and(here, ~gone), left), leaving

    def take(kept: Any, place: tf.Tensor) -> Any:
        slot = tf.cast(place % ahead, tf.int32)
        parts = [_get(each, slot, part) for each, part in zip(kept, specs, strict=True)]
        return tf.nest.pack_sequence_as(spec, parts)

    def depart(overdue: Any, front: Any) -> tf.data.Dataset:
        first, late, here, kept = overdue

        def waited_for(place: tf.Tensor) -> tf.data.Dataset:
            def is_here(n: tf.Tensor) -> tf.Tensor:
                return tf.logical_and(here[n % ahead], n < first + ahead)

            places = tf.data.Dataset.from_tensors(place)
            there = places.filter(is_here).map(lambda n: take(kept, n))
            return there.concatenate(places.filter(lambda n: ~is_here(n)).flat_map(make))

        due, count, ready = front
        at_front = tf.data.Dataset.range(due, due + count).map(lambda n: take(ready, n))
        return tf.data.Dataset.range(first, first + late).flat_map(waited_for).concatenate(at_front)

    state = (tf.constant(start, tf.int64), tf.zeros([ahead], tf.bool), _empty(specs, ahead))
    return dataset.scan(state, arrive).flat_map(depart)


def _empty(specs: Sequence[tf.TensorSpec], slots: int) -> tuple[tf.Tensor, ...]:
    """A list of so many free slots for each part; a tuple, since tf.data stacks a list."""
    return tuple(
        tf.raw_ops.TensorListReserve(
            element_shape=tf.constant(-1), num_elements=slots, element_dtype=each.dtype
        )
        for each in specs
    )


def _put(kept: tf.Tensor, slot: tf.Tensor, part: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.TensorListSetItem(input_handle=kept, index=slot, item=part)


def _get(kept: tf.Tensor, slot: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    part = tf.raw_ops.TensorListGetItem(
        input_handle=kept,
        index=slot,
        element_shape=tf.constant(spec.shape.as_list(), tf.int32),
        element_dtype=spec.dtype,
    )
    return tf.ensure_shape(part, spec.shape)


def _clear(kept: tf.Tensor, gone: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Lets go of the elements that have left, lest they stay in memory until they are replaced."""
    slots = tf.cast(tf.where(gone)[:, 0], tf.int32)
    nothing = tf.zeros([0], dtype)
    _, left = tf.while_loop(
        lambda i, _: i < tf.size(slots),
        lambda i, handle: (i + 1, _put(handle, slots[i], nothing)),
        (0, kept),
    )
    return left
