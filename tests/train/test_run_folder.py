"""The run's folder: who may write there, what stays after a failure, what is written."""

import dataclasses
import errno
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import flags
from tfcontrast.config import Config
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints, run_folder
from tfcontrast.train.lock import locked


def config_of(folder="", **options):
    return flags.parse(
        ["run", f"--model_dir={folder}", *(f"--{name}={v}" for name, v in options.items())]
    )


def opened(config):
    return run_folder.opened(config, flags.to_flagfile(config))


def refusal(config):
    with pytest.raises(UserError) as info, opened(config):
        pass
    assert "\n" not in str(info.value)
    return str(info.value)


def snapshot(root):
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def trained(folder, **options):
    """A folder in which a run has begun to write."""
    config = config_of(folder, **options)
    with opened(config) as made:
        (made / "checkpoints").mkdir()
    return config


def test_a_new_folder_holds_the_flags_that_repeat_the_run(tmp_path):
    config = config_of(tmp_path / "deep" / "run", seed=3)
    with opened(config) as folder:
        assert folder == tmp_path / "deep" / "run"
        assert flags.parse(["run", f"--flagfile={folder}/flags.txt"]) == config
        assert (folder / ".lock").exists()
    assert [path.name for path in folder.iterdir()] == ["flags.txt"]


def test_an_empty_folder_is_as_good_as_none(tmp_path):
    (tmp_path / "run").mkdir()
    with opened(config_of(tmp_path / "run")) as folder:
        assert (folder / "flags.txt").exists()


@pytest.mark.parametrize("failure", [UserError("no such data set"), ValueError, KeyboardInterrupt])
def test_a_failed_start_leaves_no_trace(tmp_path, failure):
    (tmp_path / "runs").mkdir()
    with (
        pytest.raises((UserError, ValueError, KeyboardInterrupt)),
        opened(config_of(tmp_path / "runs" / "a" / "b")),
    ):
        raise failure
    assert snapshot(tmp_path) == {"runs": None}


def fail_after_writing(path):
    path.mkdir()
    raise UserError("the disk is full")


def test_a_failure_after_the_first_file_leaves_the_run_as_it_is(tmp_path):
    with pytest.raises(UserError), opened(config_of(tmp_path / "run")) as folder:
        fail_after_writing(folder / "checkpoints")
    assert set(snapshot(tmp_path)) == {"run", "run/checkpoints", "run/flags.txt"}


def test_a_failed_resume_leaves_the_old_run_as_it_was(tmp_path):
    config = trained(tmp_path / "run")
    before = snapshot(tmp_path)
    with pytest.raises(UserError), opened(config):
        raise UserError("the data set has gone")
    assert snapshot(tmp_path) == before


def test_the_same_settings_resume_and_change_no_file(tmp_path):
    trained(tmp_path / "run", train_steps=5)
    before = snapshot(tmp_path)
    with opened(config_of(tmp_path / "run", train_steps=5, knn_k=3, checkpoint_steps=2)):
        pass
    assert snapshot(tmp_path) == before


def test_another_runs_folder_is_refused_with_the_differences(tmp_path):
    trained(tmp_path / "run", seed=1)
    before = snapshot(tmp_path)
    message = refusal(config_of(tmp_path / "run", seed=2, temperature=0.5, allow_missing="probe"))
    assert message == (
        f"--model_dir={tmp_path}/run belongs to a run with other settings (--allow_missing empty "
        "there, probe now, --seed 1 there, 2 now, --temperature 0.1 there, 0.5 now); give these "
        "or another --model_dir"
    )
    assert "--supcon_variant out there, unset now" in refusal(
        config_of(tmp_path / "run", seed=1, method="simclr")
    )
    assert snapshot(tmp_path) == before


def test_a_folder_that_another_process_trains_in_is_refused(tmp_path):
    config = trained(tmp_path / "run")
    (tmp_path / "new").mkdir()
    for folder in (tmp_path / "run", tmp_path / "new"):
        with locked(folder):
            before = snapshot(tmp_path)
            message = refusal(config_of(folder))
            assert message.startswith(f"--model_dir={folder} is in use by process {os.getpid()} on")
            assert snapshot(tmp_path) == before
    with locked(tmp_path / "run"), opened(measuring(config, tmp_path / "run")):
        pass  # a run may be measured while it trains


@pytest.mark.parametrize("left", [".lock", ".flags.txt.123.tmp", ".result.json.123.tmp"])
def test_what_a_killed_process_left_is_nobodys_run(tmp_path, left):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / left).touch()
    with opened(config_of(tmp_path / "run")) as folder:
        assert set(snapshot(folder)) == {"flags.txt", ".lock"}
    assert set(snapshot(tmp_path / "run")) == {"flags.txt"}


def test_a_run_that_never_began_gives_way(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "flags.txt").write_text(flags.to_flagfile(config_of("", seed=1)))
    with opened(config_of(tmp_path / "run", seed=2)) as folder:
        assert "--seed=2\n" in (folder / "flags.txt").read_text()


def test_a_damaged_flags_file_is_another_run(tmp_path):
    trained(tmp_path / "run")
    (tmp_path / "run" / "flags.txt").write_bytes(b"\xff\xfe--seed\n")
    assert "belongs to a run with other settings" in refusal(config_of(tmp_path / "run"))
    assert (tmp_path / "run" / "flags.txt").read_bytes() == b"\xff\xfe--seed\n"


def test_foreign_folders_and_files_are_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "note").write_text("mine")
    before = snapshot(tmp_path)
    assert "is not empty and holds no run; give a new folder" in refusal(
        config_of(tmp_path / "photos")
    )
    assert refusal(config_of(tmp_path / "note")).endswith("is a file; give a folder")
    below = refusal(config_of(tmp_path / "note" / "run"))
    assert f"--model_dir={tmp_path}/note/run cannot be made: Not a directory" in below
    assert snapshot(tmp_path) == before


def test_a_read_only_place():
    assert "--model_dir=/proc/run cannot be made: " in refusal(config_of("/proc/run"))


def measuring(config, folder, **run):
    run = {"mode": "eval", "model_dir": str(folder), **run}
    return dataclasses.replace(config, run=dataclasses.replace(config.run, **run))


def test_measuring_writes_beside_a_run_but_not_into_other_folders(tmp_path):
    config = trained(tmp_path / "run", seed=4)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "result.json").write_text("mine")
    before = snapshot(tmp_path)
    with opened(measuring(config, tmp_path / "run", seed=9)) as folder:
        assert folder == tmp_path / "run"
    assert "holds no run" in refusal(measuring(config, tmp_path / "photos"))
    assert snapshot(tmp_path) == before
    with opened(measuring(config, tmp_path / "new")) as folder:
        assert snapshot(folder) == {}, "it is no run, so it has no flags"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "runs/digits_supcon"),
        ({"method": "simclr", "dataset": "cifar10"}, "runs/cifar10_simclr"),
        ({"dataset": "folder:/data/my cats/"}, "runs/data-my-cats_supcon"),
        ({"dataset": "imagenet_resized/32x32:0.1.0"}, "runs/imagenet_resized-32x32-0.1.0_supcon"),
    ],
)
def test_a_run_without_a_folder_gets_a_name(options, expected):
    assert run_folder.locate(config_of(**options)) == pathlib.Path(expected)


def test_a_classifiers_run_has_a_name_of_its_own():
    config = config_of()
    run = dataclasses.replace(config.run, train_mode="finetune")
    config = dataclasses.replace(config, run=run)
    assert run_folder.locate(config) == pathlib.Path("runs/digits_supcon_finetune")


def test_measuring_a_checkpoint_writes_to_its_run(tmp_path, monkeypatch):
    config = config_of()
    made = checkpoints.write_checkpoint(
        tmp_path / "run" / "checkpoints", {"a": np.ones(1)}, step=1, config=config.to_dict()
    )
    for path in (made, tmp_path / "run"):
        assert run_folder.locate(measuring(config, "", checkpoint=str(path))) == tmp_path / "run"
    monkeypatch.chdir(made.parent)
    where = run_folder.locate(measuring(config, "", checkpoint=made.name))
    assert where == tmp_path / "run"


def test_a_checkpoint_outside_of_a_run_needs_a_place_for_its_results(tmp_path):
    config = config_of()
    made = checkpoints.write_checkpoint(
        tmp_path / "copies", {"a": np.ones(1)}, step=1, config=config.to_dict()
    )
    with pytest.raises(UserError, match="--mode=export needs --model_dir"):
        run_folder.locate(measuring(config, "", mode="export", checkpoint=str(made)))


def test_write_text_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    run_folder.write_text(path, "old")
    run_folder.write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"result\.json cannot be written: No space left on device"):
        run_folder.write_text(path, "new")
    assert snapshot(tmp_path) == {"result.json": "é\n".encode()}


def test_results_are_added_and_replaced(tmp_path):
    config = config_of(seed=2)
    run_folder.write_result(tmp_path, config, {"train": {"steps": 4}, "evaluation": [1]})
    run_folder.write_result(tmp_path, config, {"evaluation": [2]})
    found = json.loads((tmp_path / "result.json").read_text())
    assert found.pop("versions")["tensorflow"] == tf.__version__
    assert found == {
        "method": "supcon",
        "train_mode": "pretrain",
        "dataset": "digits",
        "seed": 2,
        "train": {"steps": 4},
        "evaluation": [2],
    }


@pytest.mark.parametrize("content", [b"{", b"\xff", b"3", b"[]", b"[1]"])
def test_a_damaged_result_is_written_anew(tmp_path, content):
    (tmp_path / "result.json").write_bytes(content)
    run_folder.write_result(tmp_path, Config(), {"train": 1})
    assert json.loads((tmp_path / "result.json").read_text())["train"] == 1


def test_the_first_line_says_what_and_where(strategy_of):
    config = config_of("x", train_batch_size=64)
    folder = pathlib.Path("x")
    one = run_folder.describe(config, folder, strategy_of(1))
    assert one == "supcon pretrain on digits: 1 replica on CPU, batch 64, seed 0, in x"
    two = run_folder.describe(config, folder, strategy_of(2))
    assert (
        two == "supcon pretrain on digits: 2 replicas on CPU, batch 64, 32 a replica, seed 0, in x"
    )
    measured = run_folder.describe(measuring(config, folder), folder, strategy_of(1))
    assert measured == "eval of supcon pretrain on digits: 1 replica on CPU, in x"


def test_the_next_commands_can_be_pasted():
    config = config_of()
    text = run_folder.next_commands(config, pathlib.Path("my runs/a"))
    assert text.splitlines() == [
        "",
        "next:",
        "  python -m tfcontrast.run --train_mode=linear_eval --checkpoint='my runs/a'",
        "  python -m tfcontrast.run --mode=export --checkpoint='my runs/a'",
        "  tensorboard --logdir='my runs/a'",
    ]
    trains = measuring(config, "r", mode="train")
    assert "--mode=eval --model_dir=r" in run_folder.next_commands(trains, pathlib.Path("r"))
    assert run_folder.next_commands(measuring(config, "r", mode="export"), pathlib.Path("r")) == ""
