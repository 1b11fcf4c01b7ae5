"""Every method's step is one XLA program of static shapes, and computes what the graph computes.

It is compiled for the CPU here. XLA for TPUs takes no dynamic shape and no op that leaves the
program, so these are the parts of being ready for a TPU that can be seen without one.
"""

import re

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import METHODS, train_function
from tfcontrast.models import ResNet
from tfcontrast.optim import make_optimizer
from tfcontrast.train import state

EVERY = sorted(METHODS)
# Small rates: after one step what differs is the gradients' rounding.
OPTIMIZERS = {
    "lars": {"learning_rate": 0.02, "weight_decay": 1e-4, "momentum": 0.9},
    "adamw": {"learning_rate": 1e-4, "weight_decay": 1e-2},
}
# What a program on a TPU cannot do by itself: talk to the host, or call what is not XLA's.
OUTSIDE = ("infeed", "outfeed", "send", "recv", "custom-call")


def optimizer_of(name):
    return lambda: make_optimizer(name, **OPTIMIZERS[name])


def program(compiled, *arguments):
    """The text of the program that XLA is given, before it optimises."""
    return compiled.experimental_get_compiler_ir(*arguments)(stage="hlo")


@pytest.fixture
def programs(monkeypatch):
    """The functions that ``fit`` has compiled by XLA: what is looked at is what has run."""
    made = []

    class Watched:
        """TensorFlow, for the one module."""

        def __getattr__(self, name):
            return getattr(tf, name)

        def function(self, *arguments, **options):
            found = tf.function(*arguments, **options)
            if options.get("jit_compile"):
                made.append(found)
            return found

    monkeypatch.setattr(train_function, "tf", Watched())
    return made


def check_only_program(programs, batch):
    """``fit`` has made one, for batches of this shape."""
    (compiled,) = programs
    check_program(program(compiled, batch))
    assert compiled.experimental_get_tracing_count() == 1


def bounded(text):
    """Dimensions that are known by an upper bound only, written ``f32[<=8,3]``."""
    return re.findall(r"\w+\[[^\]]*<=[^\]]*\]", text)


def opcodes(text):
    return set(re.findall(r"= \S+ ([a-z][a-z0-9-]*)\(", text))


def check_program(text):
    assert text.count("HloModule ") == 1
    assert not bounded(text)
    assert not opcodes(text).intersection(OUTSIDE)
    assert {"convolution", "dot"} <= opcodes(text), "the step is not in the program"


def after_one_step(method, fit):
    """Loss, and every variable: weights, slots (the gradients, after one step), statistics."""
    logs = fit(method, 1)
    values = state.values(state.full_state(method))
    return logs, {name: value.astype(np.float64) for name, value in values.items()}


# Their biases before a batch norm have no gradient but the rounding of many that cancel, and what a
# norm has centred has no mean but that.
BIASES_BEFORE_NORMS = ("byol", "nnclr", "deepcluster_v2", "swav")


def largest_difference(expected, found, *, slots=1e-3):
    """The largest difference in shares of a variable's largest entry (or 1e-3), and where it is.

    Of the probe it is in shares of 0.1 at least: Adam takes nearly whole steps of 1e-3 where a
    gradient cancels, and with views that are normalised alone one of its entries does (4e-5 where
    the others have 2e-2). Its gradients are among the slots.
    """
    assert expected.keys() == found.keys()
    shares = {}
    for name, value in expected.items():
        cancels = name.startswith("optimizer/") or name.endswith("/moving_mean")
        least = slots if cancels else 1e-3
        least = 0.1 if name.startswith("probe/") else least
        difference = np.abs(value - found[name]).max(initial=0)
        shares[name] = difference / np.abs(value).max(initial=least)
    worst = max(shares, key=shares.get)
    return shares[worst], worst


def cosine(expected, found):
    """Of all variables as one vector."""
    x, y = (np.concatenate([v.ravel() for v in values.values()]) for values in (expected, found))
    return x @ y / np.sqrt((x @ x) * (y @ y))


def part(values, prefixes):
    """The variables of these parts; the optimizer's without its counters."""
    kept = {name: v for name, v in values.items() if name.startswith(prefixes) and v.ndim}
    assert kept
    return kept


def test_the_check_finds_what_it_looks_for():
    x = tf.range(8.0)

    def text_of(function):
        return program(tf.function(function, jit_compile=True), x)

    assert bounded(text_of(lambda x: tf.boolean_mask(x, x > 3.0)))
    assert not bounded(text_of(lambda x: x * x))
    assert opcodes(text_of(lambda x: x * x + 1.0)) >= {"multiply", "add"}


def check_train_function(method, stream):
    """``fit``'s function calls the one program, and nothing else that changes anything."""
    ops = method.train_function.get_concrete_function(stream).graph.get_operations()
    calls = [op for op in ops if "Call" in op.type]
    assert [op.type for op in calls] == ["StatefulPartitionedCall"]
    assert calls[0].get_attr("_XlaMustCompile")
    # Beside the one program: the next batch, handed on when the clock was read, and the metrics'
    # results from their sums.
    inputs = [op for op in ops if op.type in ("Placeholder", "IteratorGetNext")]
    handed_on = [op for op in ops if op.type == "Identity" and op.inputs[0].op in inputs]
    beside = [op for op in ops if op not in (*inputs, *handed_on, *calls)]
    assert all(tensor.shape.rank == 0 for op in beside for tensor in op.outputs)
    assert not [op.type for op in ops if op.type.startswith("Assign")]


@pytest.mark.parametrize("name", EVERY)
def test_the_step_is_one_program_of_static_shapes_that_rounds_and_does_nothing_else(
    make_method, batches, fit, programs, name
):
    """With LARS; AdamW is in the test below, and SGD with DINO's local views in its own tests.

    tests/optim/test_skipping.py has the three under XLA by themselves.
    """
    make = optimizer_of("lars")
    compiled = make_method(name, optimizer=make, compile={"jit_compile": True})
    assert compiled.jit_compile is True
    stream = iter(batches(compiled.num_views))
    assert all(spec.shape.is_fully_defined() for spec in tf.nest.flatten(stream.element_spec))
    plain = make_method(name, optimizer=make)
    assert plain.jit_compile is False
    logs, expected = after_one_step(plain, fit)
    assert not programs
    other_logs, found = after_one_step(compiled, fit)
    check_only_program(programs, next(stream))
    check_train_function(compiled, stream)
    assert other_logs == pytest.approx(logs, rel=1e-6, abs=1e-7)
    slots = 1e-2 if name in BIASES_BEFORE_NORMS else 1e-3
    share, where = largest_difference(expected, found, slots=slots)
    assert share < 1e-5, where  # 4e-6 was seen


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "dtype"), [("lars", "float32"), ("adamw", "mixed_bfloat16")])
def test_a_residual_network_compiles_and_is_close(
    make_method, batches, fit, programs, optimizer, dtype
):
    def backbone(dtype):
        return ResNet(
            depth=10, width_multiplier=0.1, stem="cifar_stride2", dtype=dtype, name="backbone"
        )

    plain, compiled = (
        make_method(
            "simclr",
            backbone=backbone,
            dtype=dtype,
            optimizer=optimizer_of(optimizer),
            compile={"jit_compile": jit_compile},
        )
        for jit_compile in (False, True)
    )
    logs, expected = after_one_step(plain, fit)
    other_logs, found = after_one_step(compiled, fit)
    check_only_program(programs, next(iter(batches(2))))
    # The slots are the gradients; weights are no measure, as Adam takes whole steps for rounding.
    gradients = part(expected, "optimizer/"), part(found, "optimizer/")
    moving = tuple(name for name in expected if "/moving_" in name)
    statistics, where = largest_difference(part(expected, moving), part(found, moving))
    if dtype == "float32":
        assert other_logs["loss"] == pytest.approx(logs["loss"], rel=1e-5)  # seen: 6e-7
        assert statistics < 1e-5, where  # 7e-7
        share, where = largest_difference(*gradients)
        assert share < 1e-4, where  # 1.4e-5
    else:
        # XLA keeps float32 between fused ops where the graph rounds to 8 bits each time.
        assert other_logs["loss"] == pytest.approx(logs["loss"], rel=0.02)  # 0.006
        assert statistics < 0.02, where  # 0.004
        assert cosine(*gradients) > 0.8  # 0.89
