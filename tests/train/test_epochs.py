import dataclasses
import functools
import os
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast.data import view_making
from tfcontrast.methods import METHODS
from tfcontrast.train import checkpoints, epochs, interruption, loop, state

STEPS, PER_EPOCH, BATCH = 12, 5, 64
OPTIONS = {"monitor_epochs": 0, "max_bad_steps": 2, "eval_batch_size": 100}
SimCLR = METHODS["simclr"]


class Begins(SimCLR):
    """SimCLR that keeps a table of its features from epoch to epoch."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        shape = [self.plan.num_examples]
        self.table = self.add_weight(
            shape=shape, initializer="zeros", trainable=False, name="table"
        )
        self.begun, self.traces = [], 0

    def one_number(self, images):
        self.traces += 1
        return tf.reduce_sum(self.embed(images), 1, keepdims=True)  # one channel may be dead

    def begin_epoch(self, epoch, run_over):
        found = run_over(self.one_number)
        assert found.dtype == np.float32
        self.begun.append((epoch, found))
        self.table.assign(self.table + found[:, 0])


class Orders(Begins):
    """The same, trained on the images with the largest entries."""

    reorders = True

    def epoch_order(self, epoch):
        best = np.argsort(self.table.numpy())[-self.plan.batch_size * PER_EPOCH :]
        return np.random.default_rng([self.plan.seed, epoch]).permutation(best)


@pytest.fixture(scope="module")
def make(tiny_config, build_run):
    """A function that builds a run of a class of the above, in simclr's place."""

    def build(cls, strategy=None, **options):
        config = tiny_config(**{**OPTIONS, **options})
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(METHODS, "simclr", cls)
            method, data = build_run(config, strategy or tf.distribute.get_strategy())
        return method, config, data

    return build


@pytest.fixture(scope="module")
def whole(make, arrays_of, tmp_path_factory):
    """For each class an uninterrupted run with a checkpoint of every step."""
    runs = {}
    for cls in (Begins, Orders):
        folder = tmp_path_factory.mktemp(cls.__name__)
        method, config, data = make(cls)
        start = arrays_of(method)
        with pytest.MonkeyPatch.context() as patch:
            fits = []
            fit = cls.fit
            patch.setattr(cls, "fit", lambda *a, f=fit, n=fits, **o: (n.append(o), f(*a, **o))[1])
            result = loop.train(method, config, data, folder)
        runs[cls] = folder, method, config, data, result, len(fits), method.begun, start
    return runs


both = pytest.mark.parametrize("cls", [Begins, Orders])


def at(folder, step):
    return checkpoints.read_arrays(folder / f"checkpoints/step_{step:08d}")


def copy_step(source, target, step):
    name = f"checkpoints/step_{step:08d}"
    shutil.copytree(source / name, target / name)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def with_options(config, **options):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **options))


def trained(monkeypatch):
    """Records (first step, order) of every data set that is made."""
    made, plain = [], data_lib.train_dataset

    def train_dataset(*args, **options):
        made.append((options["start_step"], options["order"]))
        return plain(*args, **options)

    monkeypatch.setattr(data_lib, "train_dataset", train_dataset)
    return made


@both
def test_every_epoch_is_begun_before_its_first_step(whole, cls):
    folder, method, _, data, result, fits, begun, _ = whole[cls]
    assert [epoch for epoch, _ in begun] == [0, 1, 2]
    assert method.traces == 1
    assert fits == (3 if cls is Orders else 2)  # the last one is cut short
    assert (result["steps"], result["epochs"]) == (STEPS, 3)
    table = np.float32(0)
    for epoch, found in begun:
        table = table + found[:, 0]
        first = at(folder, epoch * PER_EPOCH + 1)
        np.testing.assert_array_equal(first["table"], table)
        if epoch:  # with the weights that the epoch before has left
            checkpoints.restore(
                state.model_state(method), at(folder, epoch * PER_EPOCH), source="x"
            )
            images = data.train.images / np.float32(255)
            expected = tf.reduce_sum(method.embed(tf.constant(images)), 1)
            np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-6)
    assert method.begun[0][1].shape == (data.train.num_examples, 1)


@pytest.mark.parametrize(
    ("cls", "step"), [(Begins, 3), (Begins, 5), (Orders, 3), (Orders, 5), (Orders, 11)]
)
def test_a_resumed_run_is_the_uninterrupted_one(
    whole, scramble, arrays_of, monkeypatch, tmp_path, cls, step
):
    folder, method, config, data, result, *_ = whole[cls]
    copy_step(folder, tmp_path, step)
    scramble(method)
    method.begun = []
    made = trained(monkeypatch)
    resumed = loop.train(method, config, data, tmp_path)
    assert [epoch for epoch, _ in method.begun] == list(range(-(-step // PER_EPOCH), 3))
    assert_same(arrays_of(method), at(folder, STEPS))
    for later in range(step + 1, STEPS + 1):
        assert_same(at(folder, later), at(tmp_path, later))
    times = {"examples_per_second", "input_wait_share"}
    for name in result["last_epoch"].keys() - times:
        assert resumed["last_epoch"][name] == result["last_epoch"][name], name
    if cls is Begins:
        assert all(order is None for _, order in made)
        return
    assert [first for first, _ in made] == [step, *range(step // 5 * 5 + 5, STEPS, 5)]
    for first, order in made:
        best = np.argsort(at(folder, first + 1)["table"])[-BATCH * PER_EPOCH :]
        assert set(order) == set(best)
        assert len(set(order)) == BATCH * PER_EPOCH < data.train.num_examples


@pytest.mark.parametrize("cls", [Begins, Orders])
def test_views_are_traced_once(whole, monkeypatch, tmp_path, cls):
    """``fit`` is called for the rest of an epoch, and for those that follow it."""
    folder, method, config, data, *_ = whole[cls]
    makers, plain = [], functools.partial(view_making.view_maker, jit_compile=False)
    monkeypatch.setattr(
        data_lib, "view_maker", lambda *a, **o: makers.append(plain(*a, **o)) or makers[-1]
    )
    copy_step(folder, tmp_path, 3)
    loop.train(method, config, data, tmp_path)
    assert [maker.experimental_get_tracing_count() for maker in makers] == [1]


def test_a_methods_own_order_is_what_is_trained_on(whole, monkeypatch, tmp_path):
    """The reversed order gives other weights."""
    folder, method, config, data, *_ = whole[Orders]
    copy_step(folder, tmp_path, 5)
    order = Orders.epoch_order
    monkeypatch.setattr(Orders, "epoch_order", lambda self, epoch: order(self, epoch)[::-1])
    loop.train(method, config, data, tmp_path)
    name = "backbone/stem/conv1/kernel"
    assert np.any(at(tmp_path, 6)[name] != at(folder, 6)[name])


def ask():
    os.kill(os.getpid(), signal.SIGTERM)
    while not interruption.asked():
        time.sleep(0.01)


@pytest.mark.parametrize(("cls", "step"), [(Begins, 0), (Orders, 5)])
def test_a_stop_while_an_epoch_begins_is_honoured_and_made_up_for(
    whole, monkeypatch, tmp_path, cls, step
):
    folder, method, config, data, *_, start = whole[cls]
    config = with_options(config, checkpoint_steps=4)
    checkpoints.restore(state.full_state(method), start, source="memory", whole=True)
    method.begun = []
    if step:
        copy_step(folder, tmp_path, step)
    batches = epochs.RunOver._batches

    def stop(self):
        for number, batch in enumerate(batches(self)):
            if number == 2:
                ask()
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(epochs.RunOver, "_batches", stop)
        with pytest.raises(interruption.Interrupted, match=f"SIGTERM after step {step} of 12, sav"):
            loop.train(method, config, data, tmp_path)
    assert not method.begun
    _, manifest = checkpoints.latest_checkpoint(tmp_path / "checkpoints")
    assert manifest["step"] == step
    assert not manifest.get("end_due")
    loop.train(method, config, data, tmp_path)
    assert len(method.begun) == 3 - step // PER_EPOCH
    assert_same(at(tmp_path, STEPS), at(folder, STEPS))


def test_two_replicas_resume_bit_for_bit_too(make, strategy_of, scramble, arrays_of, tmp_path):
    method, config, data = make(Orders, strategy_of(2), train_steps=7)
    loop.train(method, config, data, tmp_path / "whole")
    for step in (3, 5):
        copy_step(tmp_path / "whole", tmp_path / str(step), step)
        scramble(method)
        loop.train(method, config, data, tmp_path / str(step))
        assert_same(arrays_of(method), at(tmp_path / "whole", 7))


def test_after_a_rollback_the_rest_of_the_epoch_follows_the_older_state(
    whole, monkeypatch, caplog, tmp_path
):
    """Steps 6 and 7 fail, step 4's state comes back; a resumed run does the same."""
    folder, method, config, data, *_ = whole[Orders]
    config = with_options(config, checkpoint_steps=4, keep_checkpoint_every=1)
    made = trained(monkeypatch)
    recorded = data_lib.train_dataset

    def spoiled(*args, start_step, **options):
        def spoil(place, batch):
            worth = tf.where((start_step + place == 5) | (start_step + place == 6), np.nan, 1.0)
            worth = tf.cast(worth, tf.float32)
            return {**batch, "views": tuple(view * worth for view in batch["views"])}

        return recorded(*args, start_step=start_step, **options).enumerate().map(spoil)

    monkeypatch.setattr(data_lib, "train_dataset", spoiled)
    copy_step(folder, tmp_path, 4)
    loop.train(method, config, data, tmp_path)
    assert "the steps 6 to 7 had no finite gradient: weights and state go back to" in caplog.text
    assert [first for first, _ in made] == [4, 5, 7, 10]
    np.testing.assert_array_equal(at(tmp_path, 7)["table"], at(folder, 4)["table"])
    best = np.argsort(at(folder, 4)["table"])[-BATCH * PER_EPOCH :]
    order = np.random.default_rng([config.run.seed, 1]).permutation(best)
    assert made[2][1].tolist() == order.tolist() != made[1][1].tolist()
    # the epoch's running means hold its three steps with a loss
    assert at(tmp_path, 10)["metrics/loss/1"] == 3
    expected = [at(tmp_path, step) for step in (9, STEPS)]
    for step in (8, 9, 10, 11, 12):
        shutil.rmtree(tmp_path / f"checkpoints/step_{step:08d}")
    loop.train(method, config, data, tmp_path)
    assert_same(at(tmp_path, 9), expected[0])
    assert_same(at(tmp_path, STEPS), expected[1])


def test_an_image_that_cannot_be_read_keeps_its_row(whole):
    _, method, _, data, *_ = whole[Begins]
    bad = np.isin(np.arange(data.train.num_examples), [3, 4, data.train.num_examples - 1])
    found = [
        epochs.RunOver(source, image_size=8, batch_size=100)(method.embed)
        for source in (data.train, dataclasses.replace(data.train, bad=bad))
    ]
    places = np.arange(data.train.num_examples)
    places[[3, 4, -1]] = 5, 5, 0
    np.testing.assert_allclose(found[1], found[0][places], rtol=1e-4, atol=1e-6)


def test_a_method_without_such_needs_has_no_callback(whole, make):
    assert not epochs.overrides_begin(make(SimCLR)[0])
    assert epochs.overrides_begin(whole[Begins][1])
