"""What MoCo and DenseCL share: queries that look for their key among a queue of older keys.

Keys come from slow copies of the networks. They are encoded in an order of their own ("shuffling
BN", He et al., 2019, section 3.3): where batch norm takes its statistics of a part of the batch, a
query and its key would otherwise share them, and with them a mark that no older key has.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfcontrast import distribute, losses
from tfcontrast.config import option
from tfcontrast.errors import UserError
from tfcontrast.methods import shared_options
from tfcontrast.methods.momentum import MomentumConfig
from tfcontrast.methods.plan import Plan
from tfcontrast.models import Perceptron, Queue


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueueContrastConfig(MomentumConfig):
    """Options of the methods with a queue of keys; the defaults are MoCo v1's."""

    temperature: float = shared_options.temperature(0.07)
    queue_size: int = shared_options.queue_size(65536)
    num_proj_layers: int = shared_options.num_proj_layers(1)
    proj_hidden_dim: int = shared_options.proj_hidden_dim(0)
    proj_out_dim: int = shared_options.proj_out_dim(128)
    ema_decay: float = shared_options.ema_decay(0.999)
    ema_schedule: str = shared_options.ema_schedule("constant")
    shuffle_bn: bool = option(
        True, "Encode keys in another order than queries, over all replicas (shuffling BN)."
    )


def make_head(config: QueueContrastConfig, name: str) -> Perceptron:
    """Dense layers with bias and ReLU between them, without batch norm."""
    return Perceptron(
        widths=(*(config.proj_hidden_dim,) * (config.num_proj_layers - 1), config.proj_out_dim),
        hidden_bias=True,
        hidden_norm="none",
        name=name,
    )


def make_queue(config: QueueContrastConfig, plan: Plan, keys_per_image: int, name: str) -> Queue:
    """The queue, with random first rows that depend on the seed and the name.

    Raises:
        UserError: it holds less than the keys of one step.
    """
    keys = plan.batch_size * keys_per_image
    if config.queue_size < keys:
        raise UserError(
            f"--queue_size must be at least the {keys} keys of a step "
            f"(--train_batch_size={plan.batch_size}). Received: {config.queue_size}"
        )
    seed = plan.seed + sum(name.encode())  # two queues of one method start differently
    return Queue(config.queue_size, config.proj_out_dim, seed=seed, name=name)


def encode_shuffled(encode: Callable[[tf.Tensor], Any], images: tf.Tensor, order: tf.Tensor) -> Any:
    """Encodes the global batch's images in another order and puts the results back.

    Args:
        encode: images [B, ...] to one tensor or a structure of tensors, a row for each image.
        images: [B, H, W, 3] of this replica.
        order: a permutation of the global batch.

    Returns:
        What ``encode`` returns, row i for image i again.
    """
    encoded = encode(distribute.shuffle(images, order))
    return tf.nest.map_structure(lambda rows: distribute.unshuffle(rows, order), encoded)


def encode_keys(
    encode: Callable[[tf.Tensor], Any],
    images: tf.Tensor,
    *,
    config: QueueContrastConfig,
    plan: Plan,
    step: tf.Tensor,
) -> Any:
    """Runs the key networks on one view, shuffled if the options say so.

    Args:
        encode: images [B, H, W, 3] to one tensor or a structure of tensors.
        images: this replica's view.
        config: whether to shuffle.
        plan: the seed of the orders.
        step: steps before this one, which has an order of its own.

    Returns:
        What ``encode`` returns, without gradient.
    """
    if config.shuffle_bn:
        count = distribute.num_replicas() * images.shape[0]
        order = distribute.permutation(count, seed=plan.seed, step=step)
        encoded = encode_shuffled(encode, images, order)
    else:
        encoded = encode(images)
    return tf.nest.map_structure(tf.stop_gradient, encoded)


def contrast(
    queries: tf.Tensor, keys: tf.Tensor, queue: Queue, temperature: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """InfoNCE of queries [N, d] and their keys against the queue, and its (K+1)-way accuracy."""
    rows = (queries, keys, queue.read())
    return losses.info_nce_with_accuracy(*rows, temperature=temperature)


def push_keys(queue: Queue, keys: tf.Tensor, taken: tf.Tensor, *, keys_per_image: int = 1) -> None:
    """Pushes the keys of all replicas, normalised; nothing when the step was not taken.

    Args:
        queue: of unit rows.
        keys: [keys_per_image * B, d] of this replica, grouped by view.
        taken: whether the optimizer took the step.
        keys_per_image: views that keys were made of. Those of the first one go in first, for the
            global batch, whatever the number of replicas.
    """
    by_image = tf.stack(tf.split(losses.unit_rows(keys), keys_per_image), 1)  # [B, V, d]
    everyone = tf.transpose(distribute.gather(by_image, differentiable=False), [1, 0, 2])
    rows = tf.reshape(everyone, [-1, queue.dim])
    # The queue takes no rows that are not finite.
    queue.push(tf.where(taken, rows, float("nan")))
