"""The main job through the command line: pretrain, repeat, resume, measure, classify, export."""

import contextlib
import errno
import functools
import io
import json
import logging
import os
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from tfcontrast import data as data_lib
from tfcontrast import run
from tfcontrast.train import checkpoints
from tfcontrast.train.tensorboard import TensorBoard

NET = ["--image_size=8", "--width_multiplier=0.125", "--augmentation=identity"]
SHORT = ["--train_batch_size=64", "--train_steps=4", "--noeval_baselines"]
TRAINED = ["--method=supcon", *NET, *SHORT, "--monitor_epochs=1", "--knn_k=5", "--seed=3"]


@pytest.fixture(scope="module", autouse=True)
def _cheap_views():
    """Views without XLA, which takes longer to compile them than these runs take steps."""
    with pytest.MonkeyPatch.context() as patch:
        plain = functools.partial(data_lib.train_dataset, jit_compile=False)
        patch.setattr(data_lib, "train_dataset", plain)
        patch.setattr(TensorBoard, "write_views", lambda *_: None)
        yield


@pytest.fixture
def command(capsys):
    """Runs a command: gives its exit code, its output and what it said on standard error."""

    def call(*words):
        capsys.readouterr()
        code = run.main(["run", *(str(word) for word in words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The folder of a run, its output and what it said on standard error."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert run.main(["run", *TRAINED, f"--model_dir={folder}"]) == 0
    return folder, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def pretrained(said):
    return said[0]


def arrays_of(folder):
    return checkpoints.read_arrays(checkpoints.latest_checkpoint(folder / "checkpoints")[0])


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def same_run(folder):
    """The words that repeat a run elsewhere."""
    return [f"--flagfile={folder}/flags.txt"]


def test_the_result_says_what_was_measured_and_how(pretrained):
    result = result_of(pretrained)
    head = {name: result[name] for name in ("method", "train_mode", "dataset", "seed")}
    assert head == {"method": "supcon", "train_mode": "pretrain", "dataset": "digits", "seed": 3}
    assert (result["train"]["steps"], result["train"]["epochs"]) == (4, 1)
    assert result["train"]["last_epoch"]["loss"] > 0
    assert 0 <= result["train"]["last_epoch"]["monitor_knn_top1"] <= 1
    records = {record["metric"]: record for record in result["evaluation"]}
    assert set(records) == {"knn_top1", "knn_top5", "linear_top1"}
    for record in records.values():
        assert (record["split"], record["count"], record["seed"]) == ("test", 359, 3)
        assert record["encoder"] == "supcon, last step"
        # A share of the 359 images.
        assert record["value"] * 359 == pytest.approx(round(record["value"] * 359), abs=1e-6)
    assert "k=5" in records["knn_top1"]["protocol"]
    assert "1438 training images" in records["knn_top1"]["protocol"]
    assert records["knn_top5"]["value"] > records["knn_top1"]["value"] > 0.3


def test_it_speaks_in_plain_lines(said):
    folder, out, err = said
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("supcon pretrain on digits: 1 replica on CPU, batch 64, seed 3, in ")
    assert re.match(r"epoch 1/1  step 4/4  loss \d+\.\d{4}  .*held-out kNN \d+\.\d %", lines[1])
    assert "digits, test: 359 images, in %" in lines
    assert any(re.match(r"  supcon, last step +\d+\.\d +\d+\.\d +\d+\.\d$", line) for line in lines)
    assert lines[-1] == f"  tensorboard --logdir={folder}"
    assert not re.search(r"[\r\x1b]", out), "a pipe gets no bar"


def test_the_same_command_finds_the_run_done(pretrained, command, monkeypatch):
    def fit(*_args, **_options):
        raise AssertionError("trained again")

    monkeypatch.setattr(keras.Model, "fit", fit)
    before, weights = result_of(pretrained), arrays_of(pretrained)
    code, out, err = command(*TRAINED, f"--model_dir={pretrained}")
    assert (code, err) == (0, "")
    assert "resumed from step_00000004: 4 of 4 steps are done" in out
    assert result_of(pretrained)["evaluation"] == before["evaluation"]
    assert result_of(pretrained)["train"]["last_epoch"] == before["train"]["last_epoch"]
    assert_same(weights, arrays_of(pretrained))


def test_the_flags_repeat_the_run_bit_for_bit_although_the_disk_is_full(
    pretrained, tmp_path, command, monkeypatch, caplog
):
    """It ends in one line, and the same command resumes it."""
    folder = tmp_path / "run"
    words = [*same_run(pretrained), f"--model_dir={folder}", "--checkpoint_steps=2"]
    write, kept = checkpoints.write_checkpoint, {}

    def full(*args, step, **options):
        if step == 2:
            path = write(*args, step=step, **options)
            kept.update({file.name: file.read_bytes() for file in path.iterdir()})
            return path
        with monkeypatch.context() as patch:
            no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(no_space))
            return write(*args, step=step, **options)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_checkpoint", full)
        code, _, err = command(*words)
    assert code == 2
    assert re.fullmatch(r"error: .*checkpoint.*could not be written.*\n", err)
    assert "No space left on device" in caplog.text + err
    entries = [path.name for path in (folder / "checkpoints").iterdir()]
    assert entries == ["step_00000002"]
    left = folder / "checkpoints" / "step_00000002"
    assert {file.name: file.read_bytes() for file in left.iterdir()} == kept
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    assert "resumed from step_00000002: 2 of 4 steps are done" in out
    assert_same(arrays_of(pretrained), arrays_of(folder))
    assert result_of(pretrained)["evaluation"] == result_of(folder)["evaluation"]


def test_eval_measures_again_and_writes_where_it_is_told(pretrained, tmp_path, command):
    words = ["--mode=eval", f"--checkpoint={pretrained}", f"--model_dir={tmp_path}/eval"]
    assert command(*words)[0] == 0
    assert os.listdir(tmp_path / "eval") == ["result.json"]
    assert result_of(tmp_path / "eval")["evaluation"] == result_of(pretrained)["evaluation"]
    code, out, _ = command(*same_run(pretrained), "--mode=eval", "--knn_k=7")
    assert code == 0
    assert "supcon, last step" in out
    assert "k=7" in result_of(pretrained)["evaluation"][0]["protocol"]
    assert result_of(pretrained)["train"]["steps"] == 4, "what the training wrote stays"


def test_export_gives_the_encoder_that_was_trained(pretrained, tmp_path, command):
    code, out, err = command(
        "--mode=export", f"--checkpoint={pretrained}", f"--model_dir={tmp_path}/out"
    )
    assert (code, err) == (0, "")
    assert f"wrote {tmp_path}/out/saved_model" in out
    module = tf.saved_model.load(str(tmp_path / "out" / "saved_model"))
    arrays = arrays_of(pretrained)
    trained = {a.tobytes() for name, a in arrays.items() if name.startswith("backbone/")}
    exported = {v.numpy().tobytes() for v in module.variables}
    assert trained <= exported
    assert result_of(tmp_path / "out")["export"]["projections"]


def test_linear_eval_moves_the_classifier_and_nothing_else(pretrained, tmp_path, command):
    words = ["--train_mode=linear_eval", f"--checkpoint={pretrained}", *SHORT]
    code, out, err = command(*words, f"--model_dir={tmp_path}/linear")
    assert (code, err) == (0, "")
    assert "linear classifier on frozen features" in out
    before, after = arrays_of(pretrained), arrays_of(tmp_path / "linear")
    encoder = {name: array for name, array in before.items() if name.startswith("backbone/")}
    assert len(encoder) > 20
    assert_same(encoder, {name: after[name] for name in encoder})
    assert np.abs(after["classifier/kernel"]).max() > 0
    records = {r["metric"]: r for r in result_of(tmp_path / "linear")["evaluation"]}
    assert set(records) == {"linear_eval_top1", "linear_eval_top5"}
    assert (records["linear_eval_top1"]["split"], records["linear_eval_top1"]["count"]) == (
        "test",
        359,
    )


def test_linear_eval_by_logistic_regression(pretrained, tmp_path, command):
    words = ["--train_mode=linear_eval", "--linear_protocol=lbfgs", "--label_fraction=0.2"]
    words += [f"--checkpoint={pretrained}"]
    code, out, err = command(*words, f"--model_dir={tmp_path}/lbfgs")
    assert (code, err) == (0, "")
    assert "logistic regression on frozen features" in out
    record = result_of(tmp_path / "lbfgs")["evaluation"][0]
    assert record["metric"] == "linear_top1"
    assert record["value"] > 0.5
    assert not (tmp_path / "lbfgs" / "checkpoints").exists()


def test_finetune_keeps_a_projector_layer_and_sees_few_labels(pretrained, tmp_path, command):
    words = ["--train_mode=finetune", f"--checkpoint={pretrained}", *SHORT]
    few = ["--label_fraction=0.1", "--ft_proj_selector=1", f"--model_dir={tmp_path}/fine"]
    code, _, err = command(*words, *few)
    assert (code, err) == (0, "")
    before, after = arrays_of(pretrained), arrays_of(tmp_path / "fine")
    moved = [n for n in before if n.startswith("backbone/") and np.any(before[n] != after[n])]
    assert len(moved) > 20
    assert any(name.startswith("projector/") for name in after)
    records = {r["metric"]: r for r in result_of(tmp_path / "fine")["evaluation"]}
    assert "144 training images" in records["finetune_top1"]["protocol"]


def test_simclr_on_a_folder_without_labels_with_a_bad_image(tmp_path, command, caplog):
    rng = np.random.default_rng(0)
    (tmp_path / "pile").mkdir()
    for i in range(30):
        pixels = rng.integers(0, 255, (10 + i, 12, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pile" / f"{i}.png")
    for i in (4, 17):
        path = tmp_path / "pile" / f"{i}.png"
        path.write_bytes(path.read_bytes()[:60])
    words = ["--method=simclr", f"--dataset=folder:{tmp_path}/pile", *NET, "--resnet_depth=10"]
    short = ["--train_batch_size=4", "--train_steps=2", "--max_bad_images=0.2"]
    with caplog.at_level(logging.WARNING):
        code, out, _ = command(*words, *short, f"--model_dir={tmp_path}/run")
    assert code == 0
    assert re.search(r"left out \d of \d+ images in .*(4|17)\.png \(", caplog.text)
    assert "no labelled evaluation split: nothing to measure" in out
    assert "evaluation" not in result_of(tmp_path / "run")
    assert "probe_top1" not in result_of(tmp_path / "run")["train"]["last_epoch"]


def test_supervised_on_a_data_set_of_tfds(tmp_path, command):
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(8, 8, 3)),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
    )
    spec = {"image": tf.TensorSpec((8, 8, 3), tf.uint8), "label": tf.TensorSpec((), tf.int64)}

    def rows(count):
        def generate():
            for i in range(count):
                yield {
                    "image": np.full((8, 8, 3), 40 + 150 * (i % 2) + i, np.uint8),
                    "label": i % 2,
                }

        return tf.data.Dataset.from_generator(generate, output_signature=spec)

    tfds.dataset_builders.store_as_tfds_dataset(
        name="toy",
        version="1.0.0",
        features=features,
        split_datasets={"train": rows(24), "test": rows(10)},
        data_dir=str(tmp_path / "data"),
    )
    words = ["--method=supervised", "--dataset=toy", f"--data_dir={tmp_path}/data", *NET]
    short = ["--resnet_depth=10", "--train_batch_size=8", "--train_steps=2", "--noeval_baselines"]
    code, out, err = command(*words, *short, f"--model_dir={tmp_path}/run")
    assert (code, err) == (0, "")
    assert "toy, test: 10 images" in out
    records = {r["metric"]: r for r in result_of(tmp_path / "run")["evaluation"]}
    assert set(records) == {
        "knn_top1", "knn_top5", "linear_top1", "classifier_top1", "classifier_top5",
    }  # fmt: skip
    assert records["classifier_top5"]["value"] == 1.0
    assert records["knn_top1"]["count"] == 10
