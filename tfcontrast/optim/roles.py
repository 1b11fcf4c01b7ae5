"""What a variable is for, told from its layer and its rank, never from its name.

Weight decay and layer-wise adaptation leave some variables out ("biases and batch norm"). Names
are a poor guide: in Keras 3 ``variable.name`` is only ``kernel`` or ``gamma``, and a pattern that
stops matching does so in silence.
"""

from collections.abc import Iterable, Mapping

import keras

ROLES = ("kernel", "bias", "norm")

_NORM_LAYERS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def variable_roles(
    model: keras.Layer, extra: Mapping[str, Iterable[keras.Layer]] | None = None
) -> dict[int, str]:
    """Maps every trainable variable of a built model to its role.

    Args:
        model: a built model or layer.
        extra: roles of the caller's own, as layers whose variables get that role instead, whatever
            their kind: ``{"head": [model.classifier]}``.

    Returns:
        ``id(variable)`` -> ``"norm"`` (owned by a normalisation layer: one of Keras's, or any
        layer that keeps a ``moving_variance``), ``"kernel"`` (rank 2 or more), ``"bias"`` (rank 1
        or 0), or a role of ``extra``. The ids hold while the model lives.

    Raises:
        ValueError: the model has no variables yet.
    """
    roles = {}
    for layer in model._flatten_layers():
        is_norm = isinstance(layer, _NORM_LAYERS) or hasattr(layer, "moving_variance")
        for variable in layer._trainable_variables:
            by_rank = "kernel" if len(variable.shape) > 1 else "bias"
            roles[id(variable)] = "norm" if is_norm else by_rank
    if not roles:
        raise ValueError(f"Variables have roles once the model is built. Received: {model.name!r}")
    for role, layers in (extra or {}).items():
        roles.update({id(v): role for layer in layers for v in layer.trainable_variables})
    return roles
