"""`--augment_on=device`: the step makes the views; the training stays what it is."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast.train import build, loop


@pytest.fixture
def trained(tiny_config, build_run, strategy_of, arrays_of, tmp_path):
    """A function that trains four steps: the losses' source, and the state after them."""

    def train(name, replicas=1, **options):
        config = tiny_config(train_steps=4, monitor_epochs=0, **options)
        method, data = build_run(config, strategy_of(replicas))
        result = loop.train(method, config, data, tmp_path / name)
        return result["last_epoch"]["loss"], arrays_of(method), method

    return train


def assert_close(found, expected):
    for name, value in expected.items():
        least = np.abs(value).max(initial=1e-2)
        np.testing.assert_allclose(found[name], value, atol=2e-3 * least, err_msg=name)


@pytest.mark.parametrize("replicas", [1, 2])
def test_it_trains_as_on_the_host(trained, replicas):
    loss, expected, method = trained("host", augment_on="host")
    assert method.view_maker is None
    own_loss, found, method = trained("device", replicas, augment_on="device")
    assert method.view_maker is not None
    assert own_loss == pytest.approx(loss, rel=1e-4)
    assert_close(found, expected)


def test_a_resumed_run_is_the_uninterrupted_one(trained, tmp_path):
    _, expected, _ = trained("whole", augment_on="device", checkpoint_steps=2)
    name = "checkpoints/step_00000002"
    shutil.copytree(tmp_path / "whole" / name, tmp_path / "rest" / name)
    _, found, _ = trained("rest", augment_on="device", checkpoint_steps=2)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("augment_on", ["host", "device", "auto"])
def test_the_pipeline_leaves_views_to_the_device_only(
    trained, monkeypatch, tiny_config, augment_on
):
    unfinished, plain = [], data_lib.train_dataset

    def train_dataset(*args, **options):
        unfinished.append(options["unfinished"])
        return plain(*args, **options)

    monkeypatch.setattr(data_lib, "train_dataset", train_dataset)
    trained("run", augment_on=augment_on)
    assert unfinished == [augment_on == "device"]


def test_auto_is_the_device_where_there_is_an_accelerator(monkeypatch, tiny_config):
    config = tiny_config()
    assert config.augment.augment_on == "auto"
    assert not build.augments_on_device(config)
    for kind in ("GPU", "TPU"):
        with monkeypatch.context() as patch:
            patch.setattr(
                tf.config, "list_logical_devices", lambda asked, k=kind: [k] * (asked == k)
            )
            assert build.augments_on_device(config)
            assert not build.augments_on_device(tiny_config(augment_on="host"))
