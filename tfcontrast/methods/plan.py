"""What a method may know of the run that it is made for."""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The numbers of a run that schedules, banks and queues depend on.

    Attributes:
        batch_size: images of a step, over all replicas.
        num_examples: training images; every ``index`` of a batch is below it.
        steps_per_epoch: steps of one pass over them.
        total_steps: steps of the whole run.
        seed: of queues, banks and permutations.
        micro_batch: images of a replica's share that pass the networks together; 0: all of it.
    """

    batch_size: int = 0
    num_examples: int = 0
    steps_per_epoch: int = 0
    total_steps: int = 0
    seed: int = 0
    micro_batch: int = 0

    def need(self, *names: str, why: str) -> None:
        """Checks that these numbers were given.

        Args:
            *names: attributes that must be positive.
            why: what they are for, such as "the cosine of ema_decay".

        Raises:
            ValueError: one of them is not.
        """
        for name in names:
            value = getattr(self, name)
            if value < 1:
                raise ValueError(
                    f"{why} needs plan=Plan({name}=...), a positive number. Received: {value}"
                )

    def step_seed(self, step: tf.Tensor) -> tf.Tensor:
        """The seed of what a network draws within a step, int32 [2].

        Args:
            step: int64 scalar, steps before this one.
        """
        return tf.cast(tf.stack([tf.constant(self.seed, tf.int64), step]), tf.int32)
