"""A step's loss and gradients: of a replica's share at once, or in parts that fit into memory.

In parts it is gradient caching (Gao et al., 2021, arXiv:2101.06983, section 3.2). A contrastive
loss needs the embeddings of the whole batch, but an embedding only needs its own image:

1. Every part of ``micro_batch`` images passes the networks without a tape; what they give is kept.
2. The loss of the whole batch and its gradient with respect to that.
3. Every part passes the networks again, with a tape, and takes its share of this gradient back to
   the weights; the parts' gradients add up to the batch's.

Where networks treat images alone (layer norm; batch norm that is frozen) this is the gradient of
the batch, for a third more time. Batch norm in training mode normalises each part by its own
statistics (over all replicas with ``global_bn``), as gradient accumulation does, the same ones in
both passes; its moving statistics move once for every part, in the second pass. Branches that are
dropped at random are those of the undivided batch, since they follow from an image's row.

Part k is every n-th image from the k-th on, not a block of them: so the parts of all replicas
together are the same for any number of replicas, as long as there are as many parts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.models import still_statistics

Step = tuple[dict[str, Any], dict[str, tf.Tensor], list[tf.Tensor | None]]


def step_gradients(method: Any, views: Sequence[tf.Tensor], batch: Mapping[str, Any]) -> Step:
    """Runs a method forwards and back on this replica's share of the global batch.

    Args:
        method: a ``Method``; its ``plan.micro_batch`` says how.
        views: tensors [B, H, W, 3], one a view.
        batch: this replica's share, for ``compute_losses``.

    Returns:
        What ``compute_losses`` got as its outputs, what it returned, and this replica's share of
        the gradient of each of ``encoder_variables``; None where the loss does not depend on it.

    Raises:
        ValueError: the share does not divide into such parts, or the method takes none.
    """
    size, rows = method.plan.micro_batch, views[0].shape[0]
    if not size or size == rows:
        return _whole(method, views, batch)
    if not method.takes_micro_batches:
        raise ValueError(f"micro_batch is not for every method. Received: {method.name}")
    if rows is None or size < 0 or rows % size:
        raise ValueError(f"micro_batch must divide a replica's {rows} images. Received: {size}")
    return _in_parts(method, views, batch, rows // size)


def _whole(method: Any, views: Sequence[tf.Tensor], batch: Mapping[str, Any]) -> Step:
    constants = {"step": method.current_step(), **method.targets(views, training=True)}
    with tf.GradientTape() as tape:
        outputs = {**constants, **method(views, training=True)}
        losses, loss = _losses(method, outputs, batch)
    return outputs, losses, tape.gradient(loss, method.encoder_variables)


def _losses(
    method: Any, outputs: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    losses = method.compute_losses(outputs, batch)
    # Optimizers add the replicas' gradients up, so each replica brings its share of the global
    # mean.
    return losses, losses["loss"] / distribute.num_replicas()


def _in_parts(
    method: Any, views: Sequence[tf.Tensor], batch: Mapping[str, Any], count: int
) -> Step:
    variables = method.encoder_variables
    dealt = tuple(_deal(view, count, view.shape[0]) for view in views)

    def encode(number: Any, images: Any) -> Any:
        with distribute.part_of_share(number, count):
            targets = method.targets(images, training=True)
            with still_statistics():
                return targets, method(images, training=True)

    rows = views[0].shape[0]
    targets, encoded = tf.nest.map_structure(
        lambda parts: _collect(parts, rows), _stacked(encode, dealt, count)
    )
    constants = {"step": method.current_step(), **targets}
    with tf.GradientTape() as tape:
        tape.watch(encoded)
        losses, loss = _losses(method, {**constants, **encoded}, batch)
    cached, direct = tape.gradient(loss, (encoded, variables))
    slopes = {name: slope for name, slope in cached.items() if slope is not None}

    def back(number: Any, images: Any, slopes: Any) -> list[tf.Tensor | None]:
        with distribute.part_of_share(number, count), tf.GradientTape() as tape:
            outputs = method(images, training=True)
            chosen = [outputs[name] for name in slopes]
        return list(tape.gradient(chosen, variables, output_gradients=list(slopes.values())))

    parts = (dealt, {name: _deal(slope, count, rows) for name, slope in slopes.items()})
    gradients = _summed(back, parts, direct, variables, count)
    return {**constants, **encoded}, losses, gradients


def _deal(rows: tf.Tensor, count: int, images: int) -> tf.Tensor:
    """Deals rows to the parts: [V * B, ...], grouped by view, to [count, V * B / count, ...]."""
    size, rest = images // count, rows.shape[1:]
    views = rows.shape[0] // images
    split = tf.reshape(rows, [views, size, count, *rest])
    order = [2, 0, 1, *range(3, 3 + len(rest))]
    return tf.reshape(tf.transpose(split, order), [count, views * size, *rest])


def _collect(parts: tf.Tensor, images: int) -> tf.Tensor:
    """Undoes ``_deal`` for what was made of a replica's ``images`` images."""
    count, rows = parts.shape[:2] if parts.shape.rank > 1 else (parts.shape[0], 0)
    size = images // count
    if not rows or rows % size:
        raise ValueError(
            f"With micro_batch every output has a row for each of {size} images and its views. "
            f"Received: shape {tuple(parts.shape[1:])}"
        )
    rest = parts.shape[2:]
    split = tf.reshape(parts, [count, rows // size, size, *rest])
    order = [1, 2, 0, *range(3, 3 + len(rest))]
    return tf.reshape(tf.transpose(split, order), [rows * count, *rest])


def _loops() -> bool:
    """Whether parts can be turns of a loop, which is traced once.

    Collectives cannot be in one: with several replicas the parts stand one after another in the
    graph.
    """
    return distribute.num_replicas() == 1 and not tf.executing_eagerly()


def _pick(elements: Any, number: Any, after: Any = ()) -> Any:
    """Part ``number`` of stacked tensors, once ``after`` is there.

    Parts that do not wait for each other would run at once, and need the memory of all.
    """
    if tf.executing_eagerly():
        return tf.nest.map_structure(lambda rows: rows[number], elements)
    with tf.control_dependencies(tf.nest.flatten(after)):
        return tf.nest.map_structure(lambda rows: tf.identity(rows[number]), elements)


def _stacked(function: Callable[[Any, Any], Any], elements: Any, count: int) -> Any:
    """What a function of (number, part) returns for each part, stacked."""
    results = [function(0, _pick(elements, 0))]
    if _loops():
        kinds = tf.nest.map_structure(tf.TensorSpec.from_tensor, results[0])
        with tf.control_dependencies(tf.nest.flatten(results)):
            numbers = tf.range(1, count)
        others = tf.map_fn(
            lambda number: function(number, _pick(elements, number)),
            numbers,
            fn_output_signature=kinds,
            parallel_iterations=1,
        )
        return tf.nest.map_structure(
            lambda first, rest: tf.concat([first[None], rest], 0), results[0], others
        )
    for number in range(1, count):
        results.append(function(number, _pick(elements, number, results[-1])))
    return tf.nest.map_structure(lambda *parts: tf.stack(parts), *results)


def _summed(
    function: Callable[..., list[tf.Tensor | None]],
    elements: Sequence[Any],
    start: Sequence[tf.Tensor | None],
    variables: Sequence[Any],
    count: int,
) -> list[tf.Tensor | None]:
    """The sum of a function of (number, *part) over the parts, a gradient for each variable.

    Args:
        function: gives None for a variable that it does not depend on, for every part alike.
        elements: stacked tensors.
        start: what is added besides.
        variables: of the gradients.
        count: of the parts.
    """
    reached = [gradient is not None for gradient in start]

    def add(number: Any, totals: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        found = function(number, *_pick(elements, number, totals))
        for place, gradient in enumerate(found):
            reached[place] = reached[place] or gradient is not None
        return [
            total if gradient is None else total + tf.convert_to_tensor(gradient)
            for total, gradient in zip(totals, found, strict=True)
        ]

    totals = [
        tf.zeros(variable.shape, variable.dtype) if gradient is None else gradient
        for variable, gradient in zip(variables, start, strict=True)
    ]
    if _loops():
        _, totals = tf.while_loop(
            lambda number, totals: number < count,
            lambda number, totals: (number + 1, add(number, totals)),
            (tf.constant(0), totals),
            parallel_iterations=1,
        )
    else:
        for number in range(count):
            totals = add(number, totals)
    return [total if known else None for total, known in zip(totals, reached, strict=True)]
