"""What docs/scaling.md says about memory and input is what a traced step keeps and what follows."""

import functools
import math
import pathlib

import keras
import pytest
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.methods import METHODS
from tfcontrast.models import ResNet, convolution
from tfcontrast.optim import OPTIMIZERS, make_optimizer

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
SAME_BUFFER = ("Identity", "Reshape", "Squeeze", "ExpandDims")
# A prime that no kernel or stride has, so that a batch axis is known by its length.
BATCH = 11


@pytest.fixture(autouse=True)
def accelerator(monkeypatch):
    """The page is about replicas on accelerators."""
    monkeypatch.setattr(convolution, "has_accelerator", lambda: True)


def table(name):
    """The rows of the page's table after ``<!-- name -->``, by column; formulas without quotes."""
    text = PAGE.split(f"<!-- {name} -->")[1].lstrip()
    lines = text.split("\n\n")[0].splitlines()
    rows = [[cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def number(cell):
    return float(cell.replace(",", ""))


def owner(tensor):
    """The tensor that holds the bytes: reshaping copies nothing."""
    while tensor.op.type in SAME_BUFFER:
        tensor = tensor.op.inputs[0]
    return tensor


def kept(graph):
    """What the ops before the gradient tape's make, and those from there on read."""
    place = {op: i for i, op in enumerate(graph.get_operations())}
    backward = min(i for op, i in place.items() if op.name.startswith("gradient_tape/"))
    read = [owner(tensor) for op, i in place.items() if i >= backward for tensor in op.inputs]
    held = {tensor.ref(): tensor for tensor in read if place[tensor.op] < backward}
    return list(held.values())


def kept_for_backward(method, side):
    """What the forward pass makes for each image and the backward pass reads: its activations.

    Weights, and what has no batch axis, are left out; a kernel's copy in bfloat16 has none.
    """
    batch = method.num_views * BATCH
    image = tf.TensorSpec([BATCH, side, side, 3], tf.float32)
    label = tf.TensorSpec([BATCH], tf.int64)
    element = {"views": (image,) * method.num_views, "label": label, "index": label}
    graph = tf.function(method.train_step).get_concrete_function(element).graph
    axes = (BATCH, batch)
    return [tensor for tensor in kept(graph) if tensor.shape.rank and tensor.shape[0] in axes]


def size_of(tensors):
    return sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in tensors)


def make(name, side, **network):
    method = METHODS[name](ResNet(image_size=side, name="backbone", **network), num_classes=5)
    method.compile(make_optimizer("sgd", learning_rate=0.1), jit_compile=False)
    method.prepare(side)
    return method


@functools.cache
def activations(depth, side, dtype):
    """Bytes that one view of SimCLR's keeps."""
    method = make("simclr", side, depth=depth, dtype=dtype)
    maps = [tensor for tensor in kept_for_backward(method, side) if tensor.shape.rank == 4]
    return size_of(maps) / (method.num_views * BATCH)


def dtype_of(row):
    return "mixed_bfloat16" if row["precision"] == "bfloat16" else row["precision"]


@pytest.mark.slow
@pytest.mark.parametrize("row", table("activations"), ids=lambda row: " ".join(row.values()))
def test_the_activations_of_a_view(row):
    depth = int(row["network"].split("-")[1])
    assert row["MB a view"] == f"{activations(depth, int(row['pixels']), dtype_of(row)) / 1e6:.2f}"


def test_the_activations_of_a_view_on_processors(monkeypatch):
    monkeypatch.setattr(convolution, "has_accelerator", lambda: False)
    megabytes = activations.__wrapped__(18, 32, "float32") / 1e6
    assert f"ResNet-18 at 32 pixels holds {megabytes:.2f} MB a view" in PAGE


def test_what_is_kept_is_the_image_and_every_convolutions_and_relus_output():
    method = make("simclr", 8, depth=10, width_multiplier=1 / 16, stem="cifar_stride2")
    maps = [tensor for tensor in kept_for_backward(method, 8) if tensor.shape.rank == 4]
    shapes = sorted((tensor.op.type, *tensor.shape[1:]) for tensor in maps)
    blocks = [(4, 4), (2, 8), (1, 16), (1, 32)]  # side and channels of the four groups
    convolutions = [(side, side, width) for side, width in blocks for _ in range(2)]
    convolutions += [(4, 4, 4)] + [(side, side, width) for side, width in blocks[1:]]
    relus = [(4, 4, 4)] + [(side, side, width) for side, width in blocks for _ in range(2)]
    dense = [(1, 1, 32), (1, 1, 128)]  # the projector's, before batch norm
    expected = [("Conv2D", *shape) for shape in convolutions] + [("Relu", *s) for s in relus]
    expected += [("StridedSlice", *shape) for shape in dense] + [("ConcatV2", 8, 8, 3)]
    assert shapes == sorted((kind, *shape) for kind, *shape in expected)


@pytest.mark.parametrize("name", ["nt_xent", "supcon"])
def test_the_losses_keep_two_matrices_and_two_masks(name):
    local, everyone = 3, 12

    @tf.function
    def gradients(rows, all_rows, labels, all_labels):
        with tf.GradientTape() as tape:
            tape.watch([rows, all_rows])
            if name == "supcon":
                candidates = (all_rows, all_labels)
                loss = losses.supcon(rows, labels, candidates=candidates, first_row=3)
            else:
                candidates = (all_rows[:, 0], all_rows[:, 1])
                loss = losses.nt_xent(rows[:, 0], rows[:, 1], candidates=candidates, first_row=3)
        return tape.gradient(loss, [rows, all_rows])

    rows, all_rows = (tf.TensorSpec([n, 2, 5], tf.float32) for n in (local, everyone))
    labels, all_labels = (tf.TensorSpec([n], tf.int64) for n in (local, everyone))
    graph = gradients.get_concrete_function(rows, all_rows, labels, all_labels).graph
    matrices = [t for t in kept(graph) if t.shape.as_list() == [2 * local, 2 * everyone]]
    assert size_of(matrices) == 10 * 2**2 * local * everyone
    assert sorted(tensor.dtype.size for tensor in matrices) == [1, 1, 4, 4]


@pytest.mark.parametrize("row", table("slots"), ids=lambda row: row["optimizer"])
def test_the_slots_of_an_optimizer(row):
    layer = keras.layers.Dense(7)
    layer.build((None, 11))
    optimizer = make_optimizer(row["optimizer"], learning_rate=0.1, momentum=0.9, model=layer)
    floats = sum(v.shape.num_elements() for v in optimizer.variables if v.shape.rank)
    assert floats == int(row["floats a parameter"]) * 7 * 12


def test_every_optimizer_is_in_the_table():
    assert {row["optimizer"] for row in table("slots")} == set(OPTIMIZERS)


@pytest.mark.slow
def test_the_memory_of_a_replica_follows():
    rows = table("memory")
    parameters, slots = 27_968_704, 1  # the worked table's gradients / 4; LARS
    batch, views = 4096, 2
    for row in rows:
        replicas = int(row["R"])
        local = batch // replicas
        parts = {
            "parameters": (16 + 4 * slots) * parameters,
            "activations": views * local * activations(50, 224, dtype_of(row)),
            "loss": 10 * views**2 * local * batch,
        }
        assert row["views"] == f"{views * local:,}"
        for name, size in {**parts, "all": sum(parts.values())}.items():
            assert row[f"{name}, GB"] == f"{size / 1e9:.2f}", (row, name)


@pytest.mark.parametrize("row", table("input"), ids=lambda row: row["A"])
def test_the_input_table_follows(row):
    accelerators = number(row["A"])
    rate, image, views, side = 1000, 110e3, 2, 224
    cores_rate = number(PAGE.split("`w` = ")[1].split()[0])
    assert number(row["images/s"]) == accelerators * rate
    assert row["read, GB/s"] == f"{accelerators * rate * image / 1e9:.2f}"
    assert row["views, GB/s"] == f"{accelerators * rate * 12 * views * side**2 / 1e9:.1f}"
    assert number(row["cores"]) == math.ceil(accelerators * rate / cores_rate)
