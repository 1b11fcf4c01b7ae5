"""Names, shapes and order of torchvision's state dict, and the way there and back."""

import keras
import numpy as np
import pytest

from tfcontrast.models import (
    ResNet,
    load_torchvision_state,
    torchvision_names,
    torchvision_state,
)


def _built(**options):
    model = ResNet(**{"depth": 18, "stem": "imagenet", **options})
    model.build((None, None, None, 3))
    return model


def _norm(name, channels):
    parts = ("weight", "bias", "running_mean", "running_var")
    return [(f"{name}.{part}", (channels,)) for part in parts]


def _torchvision_layout(counts, bottleneck):
    """Names and shapes of torchvision's resnet*, by its documented rule of construction."""
    layout = [("conv1.weight", (64, 3, 7, 7)), *_norm("bn1", 64)]
    channels = 64
    for i, count in enumerate(counts):
        width = 64 * 2**i
        out = 4 * width if bottleneck else width
        for j in range(count):
            name = f"layer{i + 1}.{j}"
            convs = [(width, channels, 3), (width, width, 3)]
            if bottleneck:
                convs = [(width, channels, 1), (width, width, 3), (out, width, 1)]
            for k, (rows, columns, size) in enumerate(convs, 1):
                layout.append((f"{name}.conv{k}.weight", (rows, columns, size, size)))
                layout += _norm(f"{name}.bn{k}", rows)
            if j == 0 and (i > 0 or bottleneck):
                layout.append((f"{name}.downsample.0.weight", (out, channels, 1, 1)))
                layout += _norm(f"{name}.downsample.1", out)
            channels = out
    return layout


@pytest.mark.parametrize(
    ("depth", "counts", "entries"), [(18, (2, 2, 2, 2), 100), (50, (3, 4, 6, 3), 265)]
)
def test_names_shapes_and_order_are_torchvisions(depth, counts, entries):
    model = _built(depth=depth)
    state = torchvision_state(model)
    layout = _torchvision_layout(counts, depth == 50)
    assert [(name, value.shape) for name, value in state.items()] == layout
    assert len(state) == entries  # 122 and 320 with fc's 2 and one num_batches_tracked a norm
    assert len(torchvision_names(model)) == len(model.variables)
    known = {
        "layer1.1.conv2.weight": (64, 64, 3, 3),
        "layer4.0.downsample.0.weight": (512, 256, 1, 1) if depth == 18 else (2048, 1024, 1, 1),
        "layer4.1.bn2.running_var": (512,),
    }
    assert {name: state[name].shape for name in known} == known


def test_values_are_transposed_not_reshaped():
    model = _built(width_multiplier=0.125)
    state = torchvision_state(model)
    kernel = model.stem.convs[0].kernel.numpy()
    assert state["conv1.weight"][3, 2, 1, 5] == kernel[1, 5, 2, 3]
    assert state["conv1.weight"].flags["C_CONTIGUOUS"]


def test_there_and_back_with_classifier():
    rng = np.random.default_rng(0)
    first, second = (_built(depth=50, width_multiplier=0.125) for _ in range(2))
    heads = [keras.layers.Dense(5, name="fc") for _ in range(2)]
    for head in heads:
        head.build((None, first.feature_dim))
    for variable in first.variables:
        variable.assign(rng.uniform(0.1, 1, variable.shape))
    state = torchvision_state(first, heads[0])
    assert state["fc.weight"].shape == (5, first.feature_dim)
    assert list(state)[-2:] == ["fc.weight", "fc.bias"]
    state["bn1.num_batches_tracked"] = np.int64(7)
    load_torchvision_state(second, state, heads[1])
    for ours, theirs in zip(second.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(heads[1].kernel, heads[0].kernel)
    load_torchvision_state(second, state)  # without a classifier fc is passed over


def test_a_state_that_does_not_fit_changes_nothing():
    model = _built(width_multiplier=0.125)
    before = model.get_weights()
    state = {name: value + 1 for name, value in torchvision_state(model).items()}
    wrong = {**state, "layer4.1.bn2.bias": np.zeros(3)}
    with pytest.raises(ValueError, match=r"layer4\.1\.bn2\.bias .*Received: \(3,\)"):
        load_torchvision_state(model, wrong)
    with pytest.raises(ValueError, match=r"1 unknown names .*'extra'.* 0 missing"):
        load_torchvision_state(model, {**state, "extra": np.zeros(1)})
    state.pop("conv1.weight")
    with pytest.raises(ValueError, match=r"0 unknown names .* 1 missing .*'conv1.weight'"):
        load_torchvision_state(model, state)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize("options", [{"sk_ratio": 0.0625}, {"se_ratio": 0.25}])
def test_parts_that_torchvision_lacks_are_refused(options):
    with pytest.raises(ValueError, match="Received: "):
        torchvision_names(_built(depth=50, width_multiplier=0.125, **options))


def test_an_unbuilt_network_is_refused():
    with pytest.raises(ValueError, match="Received: resnet"):
        torchvision_names(ResNet(depth=18, stem="imagenet"))
