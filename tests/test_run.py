"""Bad input, one by one: one line that names what was wrong, exit code 2, nothing touched."""

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfcontrast import run
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints
from tfcontrast.train.manifest import hash_of
from tfcontrast.train.options import make_config

SMALL = ["--train_batch_size=8", "--train_steps=1", "--image_size=8", "--width_multiplier=0.125"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tf.config.list_logical_devices()  # the four of conftest, whatever --num_replicas asks for


def snapshot(root):
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture
def refusal(tmp_path, capsys):
    """Runs a command that must be refused: gives the line."""

    def refuse(*words):
        before = snapshot(tmp_path)
        assert run.main(["run", *words]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        assert snapshot(tmp_path) == before
        return lines[0].removeprefix("error: ")

    return refuse


def write_images(folder, names, damaged=()):
    """Images of 12x12 pixels; the damaged ones are cut in the middle."""
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).save(path)
        if name in damaged:
            path.write_bytes(path.read_bytes()[:60])
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method=byoll"], "--method must be one of .*supcon.* Received: 'byoll'"),
        (["--nosuchflag"], "unknown flag --nosuchflag; --help lists all flags"),
        (["--mode=tarin"], "--mode must be one of train, .* Received: 'tarin'"),
        (["--train_epochs=many"], "--train_epochs must be a whole number. Received: 'many'"),
        (["--temperature=warm"], "--temperature must be a number. Received: 'warm'"),
        (["--holdout_fraction=0.9"], "--holdout_fraction must be at most 0.5. Received: 0.9"),
        (["--train_epochs=0"], "--train_epochs must be at least 1. Received: 0"),
        (["pretrain"], "'pretrain' is not a flag; options look like --train_mode=finetune"),
        (["--flagfile=no.flags"], "--flagfile cannot be opened: .*No such file.*no.flags"),
        (["--method=simclr", "--denominator=all"], "--denominator is not an option of .*simclr"),
        (["--train_mode=linear_eval"], "--train_mode=linear_eval needs --checkpoint"),
        (
            ["--dataset=cifar11"],
            "--dataset=cifar11 is not known to TensorFlow Datasets.*did you mean cifar10",
        ),
        (
            ["--dataset=mnist", "--data_dir=empty"],
            "--dataset=mnist is not prepared in empty; add --download .* or point --data_dir",
        ),
        (["--dataset="], "--dataset must be digits, folder:PATH or a TFDS name. Received: ''"),
        (["--dataset=folder:nowhere"], "--dataset=folder:.*nowhere does not exist; a folder"),
        (["--train_split=best"], "--dataset=digits has the splits train, test. Received: 'best'"),
        (["--eval_split=best"], "--dataset=digits has the splits train, test. Received: 'best'"),
        (
            ["--train_batch_size=5000"],
            "--train_batch_size=5000 is larger than the 1366 training images of digits",
        ),
        (
            ["--strategy=mirrored", "--num_replicas=3", "--train_batch_size=64"],
            "--train_batch_size=64 must be a multiple of the 3 replicas",
        ),
        (["--strategy=mirrored", "--num_replicas=9"], "--num_replicas=9: the CPU cannot be split"),
        (["--strategy=multi_worker"], "--strategy=multi_worker reads .* TF_CONFIG .* Slurm"),
        (["--num_replicas=2", "--strategy=none"], "--num_replicas is for --strategy=mirrored"),
        (["--model_dir=/proc/run"], "--model_dir=/proc/run cannot be made: "),
        (["--mode=eval", "--model_dir=nowhere"], "--model_dir: nowhere does not exist; give a run"),
        (
            ["--mode=export", "--checkpoint=nowhere"],
            "--checkpoint: nowhere does not exist; give a run's folder",
        ),
        (["--label_fraction=0.5"], "--label_fraction is for linear_eval, finetune and"),
    ],
)
def test_a_bad_option(refusal, monkeypatch, words, expected):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    message = refusal(*words)
    assert re.match(expected, message), message


@pytest.fixture
def pretrained(tmp_path):
    """A run's folder with the checkpoint of another, smaller network than its options say."""
    options = make_config({"width_multiplier": 0.125, "image_size": 8}).to_dict()
    options["stem"] = "cifar"
    arrays = {"backbone/stem/kernel": np.zeros([3, 3, 3, 8], np.float32)}
    folder = tmp_path / "pretrained"
    checkpoints.write_checkpoint(folder / "checkpoints", arrays, step=4, config=options)
    (folder / "flags.txt").write_text("--seed=5\n")
    return folder


def test_a_checkpoint_of_another_architecture(refusal, pretrained):
    message = refusal("--train_mode=finetune", f"--checkpoint={pretrained}", "--resnet_depth=18")
    assert message.startswith("--resnet_depth=18 contradicts the checkpoint")
    for words in (["--train_mode=linear_eval", "--model_dir=new"], ["--mode=eval"]):
        message = refusal(*words, f"--checkpoint={pretrained}")
        assert "it was made by another architecture" in message
        assert "step_00000004 lacks" in message
    assert "it was made by another architecture" in refusal(
        "--mode=export", f"--checkpoint={pretrained}"
    )


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "no manifest", "bad manifest"])
def test_a_damaged_checkpoint(refusal, pretrained, damage, caplog):
    checkpoint = pretrained / "checkpoints" / "step_00000004"
    data = checkpoint / "variables.data-00000-of-00001"
    content = data.read_bytes()
    if damage == "cut":
        data.write_bytes(content[:-1])
    elif damage == "flip":
        data.write_bytes(content[:9] + b"x" + content[10:])
    elif damage == "gone":
        data.unlink()
    elif damage == "no manifest":
        (checkpoint / "manifest.json").unlink()
    else:
        (checkpoint / "manifest.json").write_text("{")
    message = refusal("--train_mode=finetune", f"--checkpoint={checkpoint}")
    assert str(checkpoint) in message
    assert re.search("is damaged|is not a whole checkpoint", message)
    message = refusal("--train_mode=finetune", f"--checkpoint={pretrained}")
    assert "holds no checkpoint; give a run's folder or one of its checkpoints/step_*" in message
    assert str(checkpoint) in caplog.text


def test_a_manifest_that_names_another_network(refusal, pretrained):
    file = pretrained / "checkpoints" / "step_00000004" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["config"]["resnet_depth"] = "deep"
    file.write_text(json.dumps({**manifest, "sha256": hash_of(manifest)}))
    message = refusal("--mode=export", f"--checkpoint={pretrained}")
    assert "--resnet_depth must be a whole number. Received: 'deep'" in message


def test_the_folder_of_another_run_or_of_something_else(refusal, tmp_path, pretrained):
    message = refusal(f"--model_dir={pretrained}")
    assert f"--model_dir={pretrained} belongs to a run with other settings" in message
    assert "--seed 5 there, 0 now" in message
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    assert "--model_dir=photos is not empty and holds no run" in refusal("--model_dir=photos")
    assert "photos/cat.jpg is a file; give a folder" in refusal("--model_dir=photos/cat.jpg")
    assert "cannot be made: Not a directory" in refusal("--model_dir=photos/cat.jpg/run")
    assert "photos is not empty" in refusal(
        "--mode=eval", f"--checkpoint={pretrained}", "--model_dir=photos"
    )


@pytest.mark.parametrize(
    "words",
    [["--method=supcon"], ["--method=supervised"], ["--train_mode=linear_eval"],
     ["--train_mode=finetune"]],
)  # fmt: skip
def test_labels_that_are_not_there(refusal, tmp_path, pretrained, words):
    write_images(tmp_path / "pile", [f"{i}.png" for i in range(20)])
    checkpoint = [f"--checkpoint={pretrained}"] if "train_mode" in words[0] else []
    message = refusal(*words, *checkpoint, "--dataset=folder:pile", "--train_batch_size=4")
    assert message == f"{words[0]} needs labels, which --dataset=folder:pile does not have"


def test_an_empty_and_an_unreadable_folder(refusal, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    assert re.search(
        r"no images in .*empty/?; accepted: \.jpg, ", refusal("--dataset=folder:empty")
    )
    write_images(tmp_path / "locked", ["a.png"])
    scan = os.scandir

    def denied(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", denied)
    message = refusal("--dataset=folder:locked")
    assert message.endswith("locked cannot be read: Permission denied")


def test_too_many_images_that_cannot_be_read(refusal, tmp_path):
    names = [f"{label}/{i}.png" for label in "ab" for i in range(10)]
    write_images(tmp_path / "pets", names, damaged=["a/3.png", "b/7.png"])
    message = refusal("--dataset=folder:pets", *SMALL)
    assert re.match(r"\d of \d+ images in .*pets/? cannot be read, more than --max_bad", message)
    assert re.search(r"[ab]/\d\.png \(", message)


def test_a_run_on_a_backend_other_than_tensorflow(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tfcontrast.run"],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: KERAS_BACKEND must be tensorflow, or not be set. Received: 'jax'\n"
    )


def test_the_names_of_tensorflows_nodes_are_left_out(refusal, monkeypatch):
    def fail(_):
        raise UserError(
            "x cannot be written: {{function_node __a_b}} d/x; No\nspace [Op:SaveV2] name:"
        )

    monkeypatch.setattr("tfcontrast.flags.parse", fail)
    assert refusal() == "x cannot be written: d/x; No space"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_an_interruption_is_not_an_error(tmp_path, capsys, monkeypatch, name):
    def interrupted(*_args, **_options):
        signal.raise_signal(signal.Signals[name])
        time.sleep(0.2)  # the thread's word
        return types.SimpleNamespace(history={})

    # A process that a shell has put in the background starts with interruptions ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(keras.Model, "fit", interrupted)
    monkeypatch.setattr("tfcontrast.train.tensorboard.TensorBoard.write_views", lambda *_: None)
    assert run.main(["run", *SMALL, "--model_dir=run"]) == 75
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)
    again = "press again" if name == "SIGINT" else "send another signal"
    assert capsys.readouterr().err.splitlines() == [
        f"{name}: saving after this step; {again} to stop at once",
        f"stopped by {name}; the same command goes on from the last checkpoint",
    ]
    assert (tmp_path / "run" / "flags.txt").exists()
    shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize("collects", [True, False])
def test_the_garbage_collector_is_left_as_it_was(capsys, collects):
    try:
        (gc.enable if collects else gc.disable)()
        assert run.main(["run", "--help"]) == 0
        assert gc.isenabled() is collects
    finally:
        gc.enable()


def test_help_goes_to_standard_output_and_a_reader_may_leave(capsys, monkeypatch):
    assert run.main(["run", "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("usage: python -m tfcontrast.run --method=METHOD")
    assert captured.err == ""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert run.main(["run", "--help"]) == 0
