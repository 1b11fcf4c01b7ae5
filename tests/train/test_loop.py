import dataclasses
import os
import shutil
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints, interruption, loop
from tfcontrast.train.callbacks import KnnMonitor

STEPS, PER_EPOCH = 12, 5
TIMES = {"examples_per_second", "input_wait_share"}


def without_times(logs):
    return {name: value for name, value in logs.items() if name not in TIMES}


def final_arrays(folder, step=STEPS):
    found, manifest = checkpoints.latest_checkpoint(folder / "checkpoints")
    assert manifest["step"] == step
    return checkpoints.read_arrays(found)


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def copy_step(source, target, step):
    name = f"checkpoints/step_{step:08d}"
    shutil.copytree(source / name, target / name)


@pytest.fixture(scope="module")
def whole(tiny_config, build_run, tmp_path_factory):
    """An uninterrupted run with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny_config()
    method, data = build_run(config, tf.distribute.get_strategy())
    result = loop.train(method, config, data, folder)
    return folder, config, data, method, result


def test_the_uninterrupted_run(whole, arrays_of):
    folder, _, _, method, result = whole
    steps = [path.name for path in checkpoints.list_checkpoints(folder / "checkpoints")]
    assert steps == [f"step_{step:08d}" for step in range(1, STEPS + 1)]
    assert (result["steps"], result["epochs"]) == (STEPS, 3)
    assert result["examples_per_second"] > 0
    logs = result["last_epoch"]
    assert {"loss", "probe_top1", "monitor_knn_top1", "learning_rate"} <= logs.keys()
    assert logs["learning_rate"] == pytest.approx(0, abs=1e-9)  # the cosine's end
    assert_same(final_arrays(folder), arrays_of(method))
    assert arrays_of(method)["metrics/loss/1"] == 2  # the last epoch was cut after two steps
    assert len(list(folder.glob("events.*"))) == 1


# in an epoch, at its end, in the last one, and when everything is done
@pytest.mark.parametrize("step", [1, 3, 5, 6, 9, 10, 11, 12])
def test_a_resumed_run_is_the_uninterrupted_one(whole, arrays_of, scramble, tmp_path, step):
    folder, config, data, method, result = whole
    expected = final_arrays(folder)
    copy_step(folder, tmp_path, step)
    scramble(method)
    resumed = loop.train(method, config, data, tmp_path)
    assert_same(arrays_of(method), expected)
    assert_same(final_arrays(tmp_path), expected)
    assert without_times(resumed["last_epoch"]) == without_times(result["last_epoch"])
    assert resumed["steps"] == STEPS
    for later in range(step, STEPS):
        name = f"checkpoints/step_{later:08d}"
        assert_same(
            checkpoints.read_arrays(folder / name), checkpoints.read_arrays(tmp_path / name)
        )


class Crash(keras.callbacks.Callback):
    """Breaks off before the step that would be number ``at``'s checkpoint."""

    def __init__(self, at):
        super().__init__()
        self.left = at

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise RuntimeError("power cut")


def test_a_crashed_run_goes_on_from_its_last_checkpoint(
    whole, tiny_config, build_run, strategy_of, scramble, monkeypatch, tmp_path
):
    config = tiny_config(checkpoint_steps=3, keep_checkpoint_max=2, monitor_epochs=2)
    folder, _, data, method, _ = whole
    copy_step(folder, tmp_path, 1)
    scramble(method)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_monitor", lambda *_: [Crash(9)])
        with pytest.raises(RuntimeError, match="power cut"):
            loop.train(method, config, data, tmp_path)
    kept = [path.name for path in checkpoints.list_checkpoints(tmp_path / "checkpoints")]
    assert kept == [f"step_{step:08d}" for step in (6, 9)]
    again, data = build_run(config, strategy_of(1))
    loop.train(again, config, data, tmp_path)
    assert_same(final_arrays(tmp_path), final_arrays(whole[0]))


def test_a_damaged_checkpoint_costs_its_steps_only(whole, caplog, tmp_path):
    folder, config, data, method, _ = whole
    for step in (4, 7):
        copy_step(folder, tmp_path, step)
    manifest = tmp_path / "checkpoints/step_00000007/manifest.json"
    manifest.write_text(manifest.read_text()[:-30])
    loop.train(method, config, data, tmp_path)
    assert "step_00000007 is not a whole checkpoint" in caplog.text
    assert (tmp_path / "checkpoints/step_00000007.damaged").is_dir()
    assert_same(final_arrays(tmp_path), final_arrays(folder))


def test_two_replicas_resume_bit_for_bit_too(
    tiny_config, build_run, strategy_of, arrays_of, scramble, whole, tmp_path
):
    config = tiny_config()
    method, data = build_run(config, strategy_of(2))
    result = loop.train(method, config, data, tmp_path / "two")
    expected = final_arrays(tmp_path / "two")
    for step in (3, 5):
        copy_step(tmp_path / "two", tmp_path / str(step), step)
        scramble(method)
        resumed = loop.train(method, config, data, tmp_path / str(step))
        assert_same(arrays_of(method), expected)
        assert without_times(resumed["last_epoch"]) == without_times(result["last_epoch"])
    # and the first step is one replica's, to rounding
    one = checkpoints.read_arrays(whole[0] / "checkpoints/step_00000001")
    two = checkpoints.read_arrays(tmp_path / "two/checkpoints/step_00000001")
    assert one.keys() == two.keys()
    for name in one:
        atol = 5e-4 * np.abs(one[name]).max(initial=0.1 if name.startswith("probe") else 1e-3)
        np.testing.assert_allclose(one[name], two[name], 0, atol, err_msg=name)


def test_only_the_chief_writes(whole, monkeypatch, capsys, tmp_path):
    folder, config, data, method, _ = whole
    copy_step(folder, tmp_path, 10)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(distribute, "is_chief", lambda strategy: False)
    loop.train(method, config, data, tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    assert capsys.readouterr().out == ""


def test_a_checkpoint_of_another_model_is_refused(
    whole, tiny_config, build_run, strategy_of, tmp_path
):
    copy_step(whole[0], tmp_path, 2)
    for options, message in (
        ({"width_multiplier": 0.2}, "another architecture: backbone/.* has shape"),
        ({"lineareval_while_pretraining": False}, "it holds .* variables more"),
        ({"method": "supervised"}, "lacks .* variables"),
    ):
        config = tiny_config(**options)
        method, data = build_run(config, strategy_of(1))
        with pytest.raises(UserError, match=message):
            loop.train(method, config, data, tmp_path)


def points_of(folder):
    """TensorBoard's points by name and step, without times."""
    found = {}
    for path in sorted(folder.glob("events.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag != "views" and value.tag not in TIMES:
                    found.setdefault((value.tag, event.step), []).append(
                        float(tf.make_ndarray(value.tensor))
                    )
    return found


def ask():
    """A signal, and the handler's mark."""
    os.kill(os.getpid(), signal.SIGTERM)
    while not interruption.asked():
        time.sleep(0.01)


def test_an_epochs_end_that_is_broken_off_is_made_up_for(whole, monkeypatch, capsys, tmp_path):
    """Twice: amid its monitor, and amid the monitor of the run that began with making up for it."""
    folder, config, data, method, result = whole
    config = dataclasses.replace(
        config, train=dataclasses.replace(config.train, checkpoint_steps=3)
    )
    batches, left = KnnMonitor._batches, [0]  # three an epoch

    def stop(self, dataset, logs):
        for batch in batches(self, dataset, logs):
            left[0] -= 1
            if left[0] == 0:
                ask()
            yield batch

    copy_step(folder, tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(KnnMonitor, "_batches", stop)
        for count in (5, 1):
            left[0] = count
            with pytest.raises(
                interruption.Interrupted, match="SIGTERM after step 10 of 12, saved"
            ):
                loop.train(method, config, data, tmp_path)
            _found, manifest = checkpoints.latest_checkpoint(tmp_path / "checkpoints")
            assert (manifest["step"], manifest["end_due"]) == (10, True)
            assert "monitor_knn_top1" not in manifest["logs"]
            assert ("loss", 10) not in points_of(tmp_path)
    resumed = loop.train(method, config, data, tmp_path)
    assert_same(final_arrays(tmp_path), final_arrays(folder))
    assert without_times(resumed["last_epoch"]) == without_times(result["last_epoch"])
    assert points_of(tmp_path) == points_of(folder)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/3", "2/3", "3/3"]


def test_an_end_that_is_due_at_the_runs_last_step(whole, monkeypatch, tmp_path):
    folder, config, data, method, result = whole
    copy_step(folder, tmp_path, 11)
    with monkeypatch.context() as patch:
        patch.setattr(
            KnnMonitor,
            "on_epoch_end",
            lambda self, epoch, logs: (ask(), self._between_batches(logs)),
        )
        with pytest.raises(interruption.Interrupted, match="after step 12 of 12, saved"):
            loop.train(method, config, data, tmp_path)
    resumed = loop.train(method, config, data, tmp_path)
    assert without_times(resumed["last_epoch"]) == without_times(result["last_epoch"])
    assert_same(final_arrays(tmp_path), final_arrays(folder))
    assert points_of(tmp_path) == {k: v for k, v in points_of(folder).items() if k[1] == 12}


def test_the_time_limit_is_a_signal(whole, monkeypatch, tmp_path):
    """It is over at step 7 here, whatever the clock says."""
    folder, config, data, method, _ = whole
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, max_runtime=2.5))
    copy_step(folder, tmp_path, 6)
    write, seen = checkpoints.write_checkpoint, []

    def late(*args, step, **options):
        if step == 7:
            seen.append(interruption._current._until - interruption._current._started)
            interruption._current._until = 0.0
        return write(*args, step=step, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_checkpoint", late)
        with pytest.raises(interruption.Interrupted) as caught:
            loop.train(method, config, data, tmp_path)
    assert str(caught.value) == (
        "stopped by --max_runtime=2.5 after step 7 of 12, saved; the same command goes on from "
        "there"
    )
    assert seen == [pytest.approx(9000)]
    loop.train(method, config, data, tmp_path)
    assert_same(final_arrays(tmp_path), final_arrays(folder))
