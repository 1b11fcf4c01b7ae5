import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS
from tfcontrast.train import build
from tfcontrast.train.options import make_config


def made_source(count=40, shape=(8, 8), classes=4, split="train"):
    labels = np.arange(count, dtype=np.int64) % classes if classes else np.full(count, -1, np.int64)
    return data_lib.Source(
        name="made",
        split=split,
        num_examples=count,
        num_classes=classes,
        labels=labels,
        images=np.zeros([count, *shape, 3], np.uint8),
    )


@pytest.fixture
def opened(monkeypatch):
    """Replaces the data sets; remembers how they were opened."""
    calls = []

    def use(train, splits=("train", "test")):
        def open_source(dataset, split, **options):
            calls.append((dataset, split, options))
            return train if split == "train" else dataclasses.replace(train, split=split)

        monkeypatch.setattr(data_lib, "open_source", open_source)
        monkeypatch.setattr(data_lib, "source_splits", lambda dataset, **_: splits)
        return calls

    return use


FROM_TRAIN = {"train_split": "train", "eval_split": "", "train_batch_size": 8}


@pytest.mark.parametrize(
    ("splits", "wanted", "expected"),
    [
        (("train", "validation", "test"), "", "test"),
        (("train", "validation"), "", "validation"),
        (("train",), "", None),
        (("train", "test"), "train[90%:]", "train[90%:]"),
    ],
)
def test_the_evaluation_split(tiny_config, opened, splits, wanted, expected):
    calls = opened(made_source(), splits)
    data = build.open_data(tiny_config(**{**FROM_TRAIN, "eval_split": wanted}))
    assert (data.evaluation.split if data.evaluation else None) == expected
    assert [split for _, split, _ in calls] == ["train"] + [expected] * bool(expected)
    if expected is None:
        with pytest.raises(UserError, match=r"no labelled split .* --eval_split names one"):
            data.labelled_evaluation()


def test_options_of_the_data_reach_it(tiny_config, opened):
    calls = opened(made_source())
    build.open_data(
        tiny_config(**FROM_TRAIN, data_dir="/somewhere", download=True, max_bad_images=0.5, seed=9)
    )
    expected = {"data_dir": "/somewhere", "download": True, "seed": 0, "max_bad_images": 0.5}
    assert [options for _, _, options in calls] == [expected] * 2


def test_held_out_images_are_never_trained_on(tiny_config):
    data = build.open_data(tiny_config())
    assert data.train.num_examples + data.held_out.num_examples == 359
    assert data.held_out.num_examples == 36
    seen = {image.tobytes() for image in data.train.images}
    assert not any(image.tobytes() in seen for image in data.held_out.images)
    assert data.whole_train.num_examples == 359
    again = build.open_data(tiny_config())
    np.testing.assert_array_equal(again.held_out.images, data.held_out.images)


@pytest.mark.parametrize("options", [{"holdout_fraction": 0.0}, {"monitor_epochs": 0}])
def test_nothing_is_held_out_for_no_monitor(tiny_config, opened, options):
    opened(made_source())
    data = build.open_data(tiny_config(**{**FROM_TRAIN, **options}))
    assert data.held_out is None
    assert data.train.num_examples == 40


def test_images_without_labels(tiny_config, opened):
    opened(made_source(classes=0))
    data = build.open_data(tiny_config(**FROM_TRAIN))
    assert data.held_out is None
    with pytest.raises(UserError, match=r"--method=supcon needs labels, which --dataset=digits"):
        build.open_data(tiny_config(**FROM_TRAIN, method="supcon"))


def test_a_share_of_the_labels(tiny_config, opened):
    opened(made_source(classes=4))
    options = {**FROM_TRAIN, "holdout_fraction": 0.0, "label_fraction": 0.2}
    data = build.open_data(tiny_config(**options, method="supervised"))
    np.testing.assert_array_equal(np.bincount(data.train.labels), [2, 2, 2, 2])
    assert data.whole_train.num_examples == 40
    with pytest.raises(UserError, match="--label_fraction is for linear_eval, finetune"):
        build.open_data(tiny_config(**options))


def test_a_batch_larger_than_the_data(tiny_config, opened):
    opened(made_source(40))
    options = {**FROM_TRAIN, "holdout_fraction": 0.5, "train_batch_size": 24}
    message = "--train_batch_size=24 is larger than the 20 training images of digits"
    with pytest.raises(UserError, match=message):
        build.open_data(tiny_config(**options))


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [((8, 8), 0, 8), ((8, 8), 32, 32), ((32, 28), 0, 32), ((96, 96), 0, 96), ((97, 97), 0, 224)],
)
def test_the_size_of_the_views(tiny_config, opened, shape, given, expected):
    opened(made_source(shape=shape))
    assert build.open_data(tiny_config(**FROM_TRAIN | {"image_size": given})).image_size == expected


@pytest.mark.parametrize(("method", "views"), [("simclr", 2), ("supcon", 2), ("supervised", 1)])
def test_a_recipe_a_view(tiny_config, method, views):
    config = tiny_config(
        method=method, augmentation="simclr_v1", color_jitter_strength=0.5, crop_area_min=0.3,
        use_blur=True,
    )  # fmt: skip
    recipes = build.make_recipes(config, 24)
    assert len(recipes) == views
    for recipe in recipes:
        assert recipe.image_size == 24
        assert recipe.crop_area == (0.3, 1.0)
        assert recipe.blur_probability == 0.5
        assert recipe.brightness == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("method", "probes", "classes"),
    [("simclr", True, 10), ("simclr", False, 0), ("supcon", False, 0), ("supervised", False, 10)],
)
def test_the_probe_is_an_option(tiny_config, method, probes, classes):
    config = tiny_config(method=method, lineareval_while_pretraining=probes)
    built = build.build_method(config, build.open_data(config))
    head = built.classifier if method == "supervised" else built.probe
    assert (head.units if head is not None else 0) == classes
    assert built.optimizer.built


def test_the_length_of_a_run(tiny_config):
    assert build.total_steps(tiny_config(train_steps=0, train_epochs=3), 7) == 21
    assert build.total_steps(tiny_config(train_steps=5, train_epochs=3), 7) == 5


def test_replicas_must_share_the_batch(tiny_config, strategy_of):
    config = tiny_config(train_batch_size=66)
    build.check_batch(config, strategy_of(2))
    message = "--train_batch_size=66 must be a multiple of the 4 replicas"
    with pytest.raises(UserError, match=message):
        build.check_batch(config, strategy_of(4))


def test_groups_of_batch_norm_must_share_the_batch(tiny_config, strategy_of):
    build.check_batch(tiny_config(train_batch_size=64, batch_norm_splits=4), strategy_of(4))
    for splits, replicas in ((6, 2), (2, 4)):
        config = tiny_config(train_batch_size=64, batch_norm_splits=splits)
        message = (
            f"--batch_norm_splits must divide --train_batch_size=64 and be a multiple of the "
            f"{replicas} replicas, or 1. Received: {splits}"
        )
        with pytest.raises(UserError, match=message):
            build.check_batch(config, strategy_of(replicas))
        run = dataclasses.replace(config.run, mode="eval")  # nothing is trained
        build.check_batch(dataclasses.replace(config, run=run), strategy_of(replicas))


def test_parts_of_a_replicas_share(tiny_config, strategy_of):
    def check(replicas=2, **options):
        build.check_batch(tiny_config(train_batch_size=64, **options), strategy_of(replicas))

    for size in (0, 2, 16, 32):
        check(micro_batch=size)
    for size in (3, 33, 64):
        message = (
            "^--micro_batch must divide the 32 images of --train_batch_size=64 that a replica "
            f"holds, or be 0. Received: {size}$"
        )
        with pytest.raises(UserError, match=message):
            check(micro_batch=size)
    with pytest.raises(UserError, match=r"^--micro_batch must be at least 0. Received: -1$"):
        check(micro_batch=-1)
    with pytest.raises(UserError, match=r"^--micro_batch must be 0 or at least 2 with .* 1$"):
        check(micro_batch=1)
    check(micro_batch=1, method="supervised")
    with pytest.raises(UserError, match=r"^--micro_batch and --batch_norm_splits .* 16 and 4$"):
        check(micro_batch=16, batch_norm_splits=4)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_takes_parts_or_names_those_that_do(tiny_config, build_run, strategy_of, method):
    config = tiny_config(
        method=method, batch_norm_splits=1, train_batch_size=64, micro_batch=16, mode="train"
    )
    accepted = sorted(name for name, cls in METHODS.items() if cls.takes_micro_batches)
    assert accepted == [
        "barlow_twins", "byol", "dino", "instdisc", "moco_v3", "nnclr", "simclr", "simsiam",
        "supcon", "supervised", "vicreg",
    ]  # fmt: skip
    if method in accepted:
        build.check_batch(config, strategy_of(1))
        assert build.make_plan(config, build.open_data(config)).micro_batch == 16
        return
    message = f"^--micro_batch is for --method={', '.join(accepted)}. Received: --method={method}$"
    with pytest.raises(UserError, match=message):
        build.check_batch(config, strategy_of(1))
    run = dataclasses.replace(config.run, train_mode="finetune")  # trains a classifier
    build.check_batch(dataclasses.replace(config, run=run), strategy_of(1))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_least_batch(tiny_config, strategy_of, method):
    least = METHODS[method].least_batch
    assert least == (1 if method in ("instdisc", "supervised") else 2)
    options = {"method": method, "batch_norm_splits": 1}  # MoCo's 8 would not divide such batches
    build.check_batch(tiny_config(**options, train_batch_size=least), strategy_of(1))
    one = tiny_config(**options, train_batch_size=1)
    if least == 2:
        message = f"^--train_batch_size must be at least 2 with --method={method}, .* Received: 1$"
        with pytest.raises(UserError, match=message):
            build.check_batch(one, strategy_of(1))
    for train_mode in ("linear_eval", "finetune"):
        run = dataclasses.replace(one.run, train_mode=train_mode)
        build.check_batch(dataclasses.replace(one, run=run), strategy_of(1))


def test_one_seed_one_start_under_any_strategy(tiny_config, build_run, strategy_of, arrays_of):
    starts = [arrays_of(build_run(tiny_config(), strategy_of(n))[0]) for n in (1, 2)]
    other = arrays_of(build_run(tiny_config(seed=1), strategy_of(1))[0])
    for name, value in starts[0].items():
        np.testing.assert_array_equal(value, starts[1][name], err_msg=name)
    assert any(np.any(value != other[name]) for name, value in starts[0].items())
    assert starts[0]["backbone/stem/conv1/kernel"].dtype == tf.float32.as_numpy_dtype


@pytest.mark.parametrize(
    ("options", "step", "expected"),
    [
        ({}, 0, 1),
        ({"steps_per_execution": 10}, 0, 5),  # of 195 steps an epoch, 390 in all
        ({"steps_per_execution": 64}, 0, 39),
        ({"steps_per_execution": 10, "checkpoint_steps": 26}, 0, 1),
        ({"steps_per_execution": 64, "checkpoint_steps": 26}, 0, 13),
        ({"steps_per_execution": 64, "summary_steps": 15}, 0, 15),
        ({"steps_per_execution": 64, "keep_checkpoint_every": 30}, 0, 15),
        ({"steps_per_execution": 10}, 98, 1),  # stopped by a run of single steps
        ({"steps_per_execution": 10}, 27, 3),
    ],
)
def test_nothing_falls_within_an_execution(options, step, expected):
    config = make_config({"method": "simclr", **options})
    assert build.execution_steps(config, step, last=390, per_epoch=195) == expected


def test_a_run_within_its_first_epoch_is_executed_by_its_own_length():
    config = make_config({"method": "simclr", "steps_per_execution": 10})
    assert build.execution_steps(config, 0, last=40, per_epoch=195) == 10
