import shutil

import keras
import numpy as np
import pytest

from tfcontrast import distribute
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints, loop

STEPS, PER_EPOCH = 12, 5
TIMES = {"examples_per_second"}


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
    import tensorflow as tf

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
    whole, tiny_config, build_run, strategy_of, monkeypatch, tmp_path
):
    config = tiny_config(checkpoint_steps=3, keep_checkpoint_max=2, monitor_epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_monitor", lambda *_: [Crash(10)])
        method, data = build_run(config, strategy_of(1))
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


@pytest.mark.parametrize("per_epoch", [1, 3, 5])
def test_segments_cover_every_step_once(per_epoch):
    for last in range(12):
        for start in range(last + 1):
            steps = []
            for first, epoch, until, length in loop._segments(start, last, per_epoch):
                assert first == start + len(steps)
                assert epoch == first // per_epoch
                assert length == per_epoch or until == epoch + 1
                for number in range(epoch, until):
                    begin = first if number == epoch else number * per_epoch
                    assert begin // per_epoch == number == (begin + length - 1) // per_epoch
                    steps += range(begin, begin + length)
            assert steps == list(range(start, last))
