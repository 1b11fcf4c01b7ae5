"""torchvision's names for a ResNet's variables, to carry weights both ways.

torchvision stores convolutions as [out, in, height, width] and dense kernels as [out, in], here
they are [height, width, in, out] and [in, out]. Its ``num_batches_tracked`` counters have no
counterpart: no computation uses them at the default momentum, and torchvision loads weights without
them when told ``strict=False``.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcontrast.models.blocks import Bottleneck
from tfcontrast.models.resnet import ResNet

CONV_TO_TORCH = (3, 2, 0, 1)
DENSE_TO_TORCH = (1, 0)


class NamedVariable(NamedTuple):
    """A variable, torchvision's name for it, and the order of axes there (None: the same)."""

    torch_name: str
    variable: Any
    transpose: tuple[int, ...] | None


def torchvision_names(
    model: ResNet, classifier: keras.layers.Dense | None = None
) -> list[NamedVariable]:
    """Names a built network's variables as torchvision does, in the order of its ``state_dict``.

    Args:
        model: built. Depths, widths and stems that torchvision lacks get names by the same rule.
        classifier: a built dense layer with bias, named ``fc``.

    Raises:
        ValueError: the network is not built, or has parts that torchvision's does not have.
    """
    config = model.get_config()
    if not model.built:
        raise ValueError(f"Build the network before naming its variables. Received: {model.name}")
    if config["sk_ratio"] or config["se_ratio"]:
        raise ValueError(
            "torchvision's ResNets have no selective kernels and no squeeze-and-excitation. "
            "Received: "
            f"sk_ratio={config['sk_ratio']}, se_ratio={config['se_ratio']}"
        )
    names = list(_conv_and_norm(model.stem.convs[0], model.stem.norms[0], "conv1", "bn1"))
    for i, group in enumerate(model.groups, 1):
        for j, block in enumerate(group.blocks):
            names += _block(block, f"layer{i}.{j}.")
    if classifier is not None:
        names.append(NamedVariable("fc.weight", classifier.kernel, DENSE_TO_TORCH))
        names.append(NamedVariable("fc.bias", classifier.bias, None))
    return names


def _block(block: Any, prefix: str) -> Iterator[NamedVariable]:
    for k in range(1, 4 if isinstance(block, Bottleneck) else 3):
        conv, norm = getattr(block, f"conv{k}"), getattr(block, f"norm{k}")
        yield from _conv_and_norm(conv, norm, f"{prefix}conv{k}", f"{prefix}bn{k}")
    if block.shortcut is not None:
        conv, norm = block.shortcut.conv, block.shortcut.norm
        yield from _conv_and_norm(conv, norm, f"{prefix}downsample.0", f"{prefix}downsample.1")


def _conv_and_norm(conv: Any, norm: Any, conv_name: str, norm_name: str) -> Iterator[NamedVariable]:
    yield NamedVariable(f"{conv_name}.weight", conv.kernel, CONV_TO_TORCH)
    yield NamedVariable(f"{norm_name}.weight", norm.gamma, None)
    yield NamedVariable(f"{norm_name}.bias", norm.beta, None)
    yield NamedVariable(f"{norm_name}.running_mean", norm.moving_mean, None)
    yield NamedVariable(f"{norm_name}.running_var", norm.moving_variance, None)


def torchvision_state(
    model: ResNet, classifier: keras.layers.Dense | None = None
) -> dict[str, np.ndarray]:
    """The weights as torchvision's ``state_dict`` would hold them, as NumPy arrays."""
    state = {}
    for name, variable, transpose in torchvision_names(model, classifier):
        value = keras.ops.convert_to_numpy(variable)
        state[name] = (
            value if transpose is None else np.ascontiguousarray(value.transpose(transpose))
        )
    return state


def load_torchvision_state(
    model: ResNet, state: Mapping[str, np.ndarray], classifier: keras.layers.Dense | None = None
) -> None:
    """Sets the weights from torchvision's ``state_dict`` (values as NumPy arrays).

    Entries for ``fc`` are ignored without a classifier, and ``num_batches_tracked`` always.

    Raises:
        ValueError: names or shapes do not fit; nothing is changed then.
    """
    wanted = torchvision_names(model, classifier)
    ignored = () if classifier is not None else ("fc.weight", "fc.bias")
    given = {k for k in state if not k.endswith("num_batches_tracked") and k not in ignored}
    names = {item.torch_name for item in wanted}
    if given != names:
        raise ValueError(
            f"The weights are of another network. Received: {len(given - names)} unknown names "
            f"{sorted(given - names)[:3]}, {len(names - given)} missing {sorted(names - given)[:3]}"
        )
    values = []
    for name, variable, transpose in wanted:
        value = np.asarray(state[name])
        if transpose is not None:
            value = value.transpose(np.argsort(transpose))
        if value.shape != tuple(variable.shape):
            raise ValueError(
                f"{name} must have the shape of {tuple(variable.shape)}. Received: {value.shape}"
            )
        values.append(value)
    for (_, variable, _), value in zip(wanted, values, strict=True):
        variable.assign(value)
