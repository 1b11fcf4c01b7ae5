"""docs/scaling.md is true: its formulas are what a traced step exchanges, its tables follow.

The formulas stand in the page and nowhere else. A step of every method is traced under a strategy
whose graph holds real collectives (several workers' strategy, here with CPU devices as replicas),
and every collective's operand is measured.
"""

import functools
import pathlib
import re
import subprocess

import keras
import pytest
import tensorflow as tf

from tfcontrast.methods import METHODS
from tfcontrast.models import BatchNorm, ResNet
from tfcontrast.optim import make_optimizer

ROOT = pathlib.Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
SIDE, BATCH, CLASSES = 8, 16, 5
# Every op by which replicas exchange something, under any strategy.
EXCHANGE = re.compile(r"Collective|Nccl|AllToAll|CrossReplica|AllReduce|AllGather|Send$|Recv$")


def table(name):
    """The rows of the page's table after ``<!-- name -->``, by column; formulas without quotes."""
    text = PAGE.split(f"<!-- {name} -->")[1].lstrip()
    lines = text.split("\n\n")[0].splitlines()
    rows = [[cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in lines]
    assert len(rows) > 2, name
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


EVERY = sorted({name for row in table("collectives") for name in row["methods"].split(", ")})


def value_of(formula, facts):
    return eval(formula, {"__builtins__": {"sum": sum}}, dict(facts))


def facts_of(method, batch):
    """The page's letters, read off a built method; ``norms``: the channels of every batch norm."""
    layers = method._flatten_layers(include_self=False)
    classifier = method.probe if method.probe is not None else None
    return {
        "B": batch,
        "V": method.num_views,
        "P": sum(v.shape.num_elements() for v in method.encoder_variables),
        "D": method.backbone.feature_dim,
        "d": getattr(method, "projector", None) and method.projector.embedding_dim,
        "K": 0 if classifier is None else classifier.units,
        "M": len(method.metrics),
        "norms": [norm.gamma.shape[0] for norm in layers if isinstance(norm, BatchNorm)],
    }


def expected(method, batch, *, batch_norm="--global_bn"):
    """What the page says that a step exchanges: (name, bytes) of every collective."""
    facts = facts_of(method, batch)
    found = []
    for row in table("collectives"):
        if type(method).__name__.lower() not in row["methods"].split(", "):
            continue
        if row["when"] not in ("always", batch_norm):
            continue
        if row["collectives"] == "N":
            each = [value_of(row["bytes of each"], facts | {"C": c}) for c in facts["norms"]]
        else:
            each = [value_of(row["bytes of each"], facts)] * int(row["collectives"])
        found += [(row["what"], size) for size in each if size]
    return found


@functools.cache
def strategy_with_collectives(replicas):
    """The strategy of several workers as one worker with CPU devices; its ops are the real ones."""
    base = {"_collective_key_base": 100_000 + 1000 * replicas}
    kind = type("_Workers", (tf.distribute.MultiWorkerMirroredStrategy,), base)
    return kind._from_local_devices([f"/device:CPU:{i}" for i in range(replicas)])


class TwoLayers(keras.Model):
    """The smallest backbone with batch norms of different sizes."""

    feature_dim = 3
    num_groups = 4

    def __init__(self, dtype="float32", synchronized=True):
        super().__init__(name="backbone", dtype=dtype)
        self.parts = []
        for number, channels in enumerate((5, self.feature_dim), 1):
            same = {"use_bias": False, "dtype": dtype}
            self.parts += [
                keras.layers.Conv2D(channels, 3, 2, name=f"conv{number}", **same),
                BatchNorm(synchronized=synchronized, name=f"norm{number}", dtype=dtype),
            ]

    def call(self, images, training=False):
        x = images
        for convolution, norm in zip(self.parts[::2], self.parts[1::2], strict=True):
            x = norm(convolution(x), training=training)
        return tf.reduce_mean(tf.cast(x, tf.float32), [1, 2])

    def freeze(self, last_group):
        self.trainable = last_group < 4


def make(name, strategy, backbone=TwoLayers, *, optimizer="lars", classes=CLASSES, **options):
    with strategy.scope():
        method = METHODS[name](backbone(), num_classes=classes, **options)
        method.compile(make_optimizer(optimizer, learning_rate=0.1), jit_compile=False)
        method.prepare(SIDE)
    return method


def traced_step(method, strategy, batch=BATCH):
    """The graph of the function that ``fit`` calls each step."""
    image = tf.zeros([batch, SIDE, SIDE, 3])
    numbers = tf.zeros([batch], tf.int64)
    element = {"views": (image,) * method.num_views, "label": numbers, "index": numbers}
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    stream = tf.data.Dataset.from_tensors(element).repeat().with_options(options)
    iterator = iter(strategy.experimental_distribute_dataset(stream))
    method.make_train_function()
    return method.train_function.get_concrete_function(iterator).graph


def counted(graph, replicas):
    """Bytes of one replica's collectives in the graph's order, which is every replica's."""
    definition = graph.as_graph_def()
    nested = [node.op for function in definition.library.function for node in function.node_def]
    assert not list(filter(EXCHANGE.search, nested)), "a collective in a branch or loop may hang"
    exchanges = [op for op in graph.get_operations() if EXCHANGE.search(op.type)]
    assert {op.type for op in exchanges} <= {"CollectiveReduceV2", "CollectiveReduceV3"}
    sizes = {}
    for op in exchanges:
        operand = op.inputs[0]
        assert operand.shape.is_fully_defined()
        size = operand.shape.num_elements() * operand.dtype.size
        sizes.setdefault(op.device, []).append(size)
    assert len(sizes) == replicas
    first, *others = sizes.values()
    assert all(other == first for other in others)
    return first


def check(method, strategy, **where):
    found = counted(traced_step(method, strategy), strategy.num_replicas_in_sync)
    said = expected(method, BATCH, **where)
    assert sorted(found) == sorted(size for _, size in said), said
    return found


@pytest.mark.slow
def test_a_step_of_a_resnet_exchanges_what_the_page_says():
    strategy = strategy_with_collectives(2)
    small = {"depth": 10, "width_multiplier": 0.05, "stem": "cifar_stride2", "name": "backbone"}
    method = make("simclr", strategy, functools.partial(ResNet, **small))
    # the stem, two norms in each of four blocks, three shortcuts; the projector has two
    assert len(facts_of(method, BATCH)["norms"]) == 12 + 2
    check(method, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_step_exchanges_what_the_page_says_with_any_replicas_and_precision(name):
    half = functools.partial(TwoLayers, dtype="mixed_bfloat16")
    two, four = (strategy_with_collectives(replicas) for replicas in (2, 4))
    method = make(name, two)
    assert len(facts_of(method, BATCH)["norms"]) == (4 if name == "simclr" else 2)
    assert check(method, two) == check(make(name, four, half), four)


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_every_optimizer_sums_once_and_without_a_probe_there_is_less(optimizer):
    strategy = strategy_with_collectives(2)
    check(make("simclr", strategy, optimizer=optimizer, classes=0), strategy)


def test_local_statistics_are_averaged_once():
    strategy = strategy_with_collectives(2)
    local = functools.partial(TwoLayers, synchronized=False)
    check(make("supcon", strategy, local), strategy, batch_norm="--noglobal_bn")


def test_linear_evaluation_exchanges_the_classifier_only():
    strategy = strategy_with_collectives(2)
    method = make("supervised", strategy, frozen_groups=4)
    found = check(method, strategy, batch_norm="none")
    assert 4 * (3 * CLASSES + CLASSES) in found
    assert len(found) == 4  # gradients, the spread twice, metrics


@functools.cache
def networks():
    """The worked examples' methods, built but for their optimizers."""
    built = {}
    for network, size, classes in (("ResNet-50", 224, 1000), ("ResNet-18", 32, 10)):
        backbone = ResNet(depth=int(network.split("-")[1]), image_size=size, name="backbone")
        backbone.build((None, size, size, 3))
        for name in EVERY:
            method = METHODS[name](backbone, num_classes=classes)
            for part in (method.projector, method.probe, getattr(method, "classifier", None)):
                if part is not None:
                    part.build((None, backbone.feature_dim))
            built[network, name] = method
    return built


@pytest.mark.parametrize("row", table("worked"), ids=lambda row: " ".join(row.values()))
def test_the_worked_table_follows(row):
    replicas, batch = int(row["R"]), int(row["B"].replace(",", ""))
    collectives = expected(networks()[row["network"], row["method"]], batch)
    parts = {"gradients": 0, "batch norm": 0, "the rest": 0}
    for name, size in collectives:
        kind = name.split(",")[0] if name.split(",")[0] in parts else "the rest"
        parts[kind] += size
    total = sum(parts.values())
    sent = 2 * (replicas - 1) / replicas * total
    assert row["collectives"] == str(len(collectives))
    for name, size in {**parts, "all": total, "sent": sent}.items():
        assert row[f"{name}, MB"] == f"{size / 1e6:.2f}"
    assert row["ms at 12.5 GB/s"] == f"{sent / 12.5e9 * 1e3:.1f}"


@pytest.mark.parametrize(("code", "requeued"), [(75, True), (0, False), (1, False)])
def test_the_slurm_script_asks_for_the_job_again_when_the_run_does(tmp_path, code, requeued):
    for name, ends in (("srun", code), ("scontrol", 0)):
        command = tmp_path / name
        command.write_text(
            f'#!/bin/sh\nprintf "[%s]" {name} "$@" >> "{tmp_path}/log"\nexit {ends}\n'
        )
        command.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "42"}
    script = [str(ROOT / "docs" / "slurm.sh"), "--method=supcon", "--dataset=a b"]
    assert subprocess.run(["bash", *script], env=environment, check=False).returncode == code
    log = (tmp_path / "log").read_text()
    run = "[-m][tfcontrast.run][--strategy=multi_worker][--model_dir=runs/42][--method=supcon]"
    asked = "[scontrol][requeue][42]" if requeued else ""
    assert log.startswith("[srun]")
    assert log.endswith(f"{run}[--dataset=a b]{asked}")
