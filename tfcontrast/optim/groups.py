"""Variables that an optimizer treats apart: frozen at first, at another rate, without momentum."""

import dataclasses
from collections.abc import Mapping, Sequence

import keras


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Some variables of a model and what is different about them.

    Attributes:
        layers: the variables of these layers.
        roles: the variables of these roles, see `variable_roles`; of ``layers`` alone, if given.
        freeze_steps: first steps in which they, and their slots, stand still.
        constant_rate: they keep the schedule's peak learning rate for the whole run (SimSiam's
            predictor).
        rate_scale: multiplies their learning rate (the biases and norms of Barlow Twins).
        momentum: replaces that of sgd and lars; None keeps it (DeepCluster's top layer has 0).
    """

    layers: tuple[keras.Layer, ...] = ()
    roles: tuple[str, ...] = ()
    freeze_steps: int = 0
    constant_rate: bool = False
    rate_scale: float = 1.0
    momentum: float | None = None

    def holds(self, variable_id: int, role: str, own: frozenset[int]) -> bool:
        """Whether a variable belongs to the group, ``own`` being the ids of its layers'."""
        if self.layers and variable_id not in own:
            return False
        return not self.roles or role in self.roles


EVERYTHING = Group()


def group_by_variable(groups: Sequence[Group], roles: Mapping[int, str]) -> dict[int, Group]:
    """Maps the variables of groups, by ``id``, to their group, without its layers.

    Args:
        groups: they may not overlap.
        roles: what `variable_roles` returns.

    Raises:
        ValueError: a group names neither layers nor roles, holds nothing, or shares a variable.
    """
    found: dict[int, Group] = {}
    for group in groups:
        if not group.layers and not group.roles:
            raise ValueError(f"A group needs layers or roles. Received: {group}")
        own = frozenset(id(v) for layer in group.layers for v in layer.trainable_variables)
        held = [i for i, role in roles.items() if group.holds(i, role, own)]
        if not held or found.keys() & set(held):
            what = "two groups share variables" if held else "a group without variables"
            raise ValueError(f"Groups must hold variables of their own. Received: {what}")
        found.update(dict.fromkeys(held, dataclasses.replace(group, layers=())))
    return found
