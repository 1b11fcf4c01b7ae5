"""DeepCluster in the training loop: every epoch clustered, sampled and resumed."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.train import checkpoints, loop

STEPS, PER_EPOCH, BATCH = 12, 5, 64
OPTIONS = {"method": "deepcluster", "num_prototypes": 20, "sobel": True, "monitor_epochs": 0}


def at(folder, step):
    return checkpoints.read_arrays(folder / f"checkpoints/step_{step:08d}")


@pytest.fixture(scope="module")
def whole(tiny_config, build_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    config = tiny_config(**OPTIONS)
    method, data = build_run(config, tf.distribute.get_strategy())
    orders, plain = [], type(method).epoch_order
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            type(method), "epoch_order", lambda *args: orders.append(plain(*args)) or orders[-1]
        )
        result = loop.train(method, config, data, folder)
    return folder, method, config, data, result, orders


def test_every_epoch_has_its_clusters_and_trains_on_all_of_them_alike(whole):
    folder, _, _, data, result, orders = whole
    epochs = [[at(folder, step) for step in steps] for steps in ([1, 5], [6, 10], [11, 12])]
    for first, last in epochs:
        np.testing.assert_array_equal(first["clusters"], last["clusters"])
        assert set(first["clusters"]) <= set(range(20))
    (one, _), (two, _), (three, _) = epochs
    assert np.any(one["clusters"] != two["clusters"])
    assert [e["clusterings_done"] for e in (one, two, three)] == [1, 2, 3]
    assert one["cluster_nmi"] == 0 < two["cluster_nmi"] < 1
    assert len(orders) == 3
    for order, (first, _) in zip(orders, epochs, strict=True):
        assert order.shape == (BATCH * PER_EPOCH,)
        counts = np.bincount(first["clusters"][order], minlength=20)
        filled = np.unique(first["clusters"])
        assert counts[filled].min() > 0.4 * BATCH * PER_EPOCH / len(filled)
        assert counts.max() <= data.train.num_examples // len(filled) + 1
    # the classifier of step 6 is new, and one step from N(0, 0.01)
    kernels = [at(folder, step)["top_layer/kernel"].ravel() for step in (5, 6)]
    assert abs(np.corrcoef(*kernels)[0, 1]) < 0.5
    assert {"loss", "cluster_use", "cluster_nmi", "largest_cluster"} <= result["last_epoch"].keys()


@pytest.mark.parametrize("step", [3, 5, 11])
def test_a_resumed_run_is_the_uninterrupted_one(whole, scramble, arrays_of, tmp_path, step):
    folder, method, config, data, result, _ = whole
    name = f"checkpoints/step_{step:08d}"
    shutil.copytree(folder / name, tmp_path / name)
    scramble(method)
    resumed = loop.train(method, config, data, tmp_path)
    found = arrays_of(method)
    for key, value in at(folder, STEPS).items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    for key, value in at(folder, step + 1).items():
        np.testing.assert_array_equal(at(tmp_path, step + 1)[key], value, err_msg=key)
    assert resumed["last_epoch"]["loss"] == result["last_epoch"]["loss"]
