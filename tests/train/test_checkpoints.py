import pathlib
import resource
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints


class PowerCut(BaseException):
    """Nothing catches it, as nothing catches the end of a process."""


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "backbone/stem/kernel": rng.normal(size=(3, 3, 2)).astype(np.float32),
        "optimizer/0000": np.int64(seed),
        "metrics/loss/0": np.float32(rng.normal()),
    }


def write(folder, step, seed=None, **options):
    values = arrays(step if seed is None else seed)
    return checkpoints.write_checkpoint(
        folder, values, step=step, config={"method": "simclr"}, **options
    )


def assert_holds(checkpoint, seed):
    found = checkpoints.read_arrays(checkpoint)
    assert found.keys() == arrays().keys()
    for name, value in arrays(seed).items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    written = write(folder, 12, logs={"loss": 0.1})
    assert names(folder) == ["step_00000012"]
    found, manifest = checkpoints.latest_checkpoint(folder)
    assert found == written
    assert manifest["step"] == 12
    assert manifest["config"] == {"method": "simclr"}
    assert manifest["logs"] == {"loss": 0.1}
    assert manifest["versions"]["tensorflow"] == tf.__version__
    assert_holds(found, 12)


def test_tensorflow_reads_the_files(tmp_path):
    reader = tf.train.load_checkpoint(str(write(tmp_path, 1) / "variables"))
    assert reader.get_variable_to_shape_map()["backbone/stem/kernel"] == [3, 3, 2]
    np.testing.assert_array_equal(
        reader.get_tensor("backbone/stem/kernel"), arrays(1)["backbone/stem/kernel"]
    )


def cut_at(patch, stage):
    """Arranges for the power to go at a stage of writing."""

    def cut(*_, **__):
        raise PowerCut

    if stage == "in data":
        patch.setattr(tf.raw_ops, "SaveV2", cut)
    elif stage == "after data":
        patch.setattr(checkpoints, "_write_manifest", cut)
    elif stage == "before rename":
        write_manifest = checkpoints._write_manifest
        patch.setattr(checkpoints, "_write_manifest", lambda *a: (write_manifest(*a), cut()))
    elif stage == "between renames":
        rename = pathlib.Path.rename
        patch.setattr(
            pathlib.Path,
            "rename",
            lambda self, new: cut() if self.suffix == ".tmp" else rename(self, new),
        )
    else:
        flush = checkpoints._flush
        patch.setattr(
            checkpoints,
            "_flush",
            lambda path: cut() if path.name == "checkpoints" else flush(path),
        )


STAGES = ["in data", "after data", "before rename", "between renames", "after rename"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("same_step", [False, True])
def test_a_cut_at_any_stage_leaves_a_whole_checkpoint(tmp_path, monkeypatch, stage, same_step):
    folder = tmp_path / "checkpoints"
    write(folder, 1)
    write(folder, 2, seed=20)
    new = 2 if same_step else 3
    with monkeypatch.context() as patch:
        cut_at(patch, stage)
        with pytest.raises(PowerCut):
            write(folder, new, seed=30)
    found, manifest = checkpoints.latest_checkpoint(folder, mend=True)
    arrived = stage == "after rename"
    assert manifest["step"] == (new if arrived else 2)
    assert_holds(found, 30 if arrived else 20)
    # the run that goes on writes it again and leaves no rubbish
    write(folder, new, seed=31)
    checkpoints.prune_checkpoints(folder, 2)
    assert_holds(checkpoints.latest_checkpoint(folder)[0], 31)
    assert len(names(folder)) == 2


def test_a_replacement_that_fails_is_undone(tmp_path, monkeypatch):
    write(tmp_path, 2, seed=20)
    rename = pathlib.Path.rename

    def refuse(self, new):
        if self.suffix == ".tmp":
            raise OSError(5, "Input/output error")
        return rename(self, new)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "rename", refuse)
        with pytest.raises(OSError, match="the checkpoint of step 2 could not be written"):
            write(tmp_path, 2, seed=21)
    assert names(tmp_path) == ["step_00000002"]
    assert_holds(tmp_path / "step_00000002", 20)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda c: (c / "variables.data-00000-of-00001").write_bytes(b"x"),
    "bit": lambda c: flip_a_bit(c / "variables.data-00000-of-00001"),
    "index bit": lambda c: flip_a_bit(c / "variables.index"),
    "deleted": lambda c: (c / "variables.index").unlink(),
    "no manifest": lambda c: (c / "manifest.json").unlink(),
    "garbage manifest": lambda c: (c / "manifest.json").write_bytes(b"\xff\x00{"),
    "list manifest": lambda c: (c / "manifest.json").write_text("[1]"),
    "empty manifest": lambda c: (c / "manifest.json").write_text("{}"),
    "other format": lambda c: (c / "manifest.json").write_text('{"format": 99}'),
    "empty folder": lambda c: (shutil.rmtree(c), c.mkdir()),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, caplog, damage):
    write(tmp_path, 1), write(tmp_path, 2)
    DAMAGES[damage](tmp_path / "step_00000002")
    found, _ = checkpoints.latest_checkpoint(tmp_path)
    assert_holds(found, 1)
    assert "step_00000002" in caplog.text
    assert names(tmp_path) == ["step_00000001", "step_00000002"]  # a reader changes nothing
    found, _ = checkpoints.latest_checkpoint(tmp_path, mend=True)
    assert_holds(found, 1)
    assert names(tmp_path) == ["step_00000001", "step_00000002.damaged"]
    with pytest.raises(UserError, match="step_00000002") as caught:
        checkpoints.read_manifest(tmp_path / "step_00000002.damaged")
    assert "\n" not in str(caught.value)


def test_all_damaged_is_none(tmp_path):
    for step in (1, 2):
        DAMAGES["bit"](write(tmp_path, step))
    assert checkpoints.latest_checkpoint(tmp_path, mend=True) is None
    assert checkpoints.latest_checkpoint(tmp_path / "absent", mend=True) is None


def test_arrays_that_tensorflow_cannot_read(tmp_path):
    written = write(tmp_path, 1)
    DAMAGES["index bit"](written)
    with pytest.raises(UserError, match=r"step_00000001 cannot be read[^\n]*$"):
        checkpoints.read_arrays(written)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    write(tmp_path, 1)
    large = {"kernel": np.ones([100_000], np.float32)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # a write beyond fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        with pytest.raises(OSError, match=r"the checkpoint of step 2 could not be written to"):
            checkpoints.write_checkpoint(tmp_path, large, step=2, config={})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["step_00000001"]
    assert_holds(tmp_path / "step_00000001", 1)


def test_pruning_keeps_the_newest_and_sweeps_leftovers(tmp_path):
    for step in (100_000_000, 3, 99_999_999, 1):  # nine digits are after eight
        write(tmp_path, step)
    (tmp_path / ".step_00000007.123.tmp").mkdir()
    (tmp_path / "step_00000002.damaged").mkdir()
    (tmp_path / "notes").write_text("mine")
    checkpoints.prune_checkpoints(tmp_path, 2)
    assert names(tmp_path) == [
        "notes", "step_00000002.damaged", "step_100000000", "step_99999999",
    ]  # fmt: skip


def test_pruning_keeps_multiples_for_good(tmp_path):
    for step in (2, 3, 4, 6, 8, 9, 10):
        write(tmp_path, step)
    checkpoints.prune_checkpoints(tmp_path, 2, every=4)
    assert names(tmp_path) == [f"step_{step:08d}" for step in (4, 8, 9, 10)]


def test_the_owner_sweeps_what_a_death_left_and_a_reader_does_not(tmp_path):
    write(tmp_path, 1)
    (tmp_path / ".step_00000002.123.tmp" / "variables").mkdir(parents=True)
    assert checkpoints.latest_checkpoint(tmp_path)[1]["step"] == 1
    assert len(names(tmp_path)) == 2
    assert checkpoints.latest_checkpoint(tmp_path, mend=True)[1]["step"] == 1
    assert names(tmp_path) == ["step_00000001"]


@pytest.mark.parametrize("due", [False, True])
def test_an_epochs_end_that_is_due_is_marked(tmp_path, due):
    _, manifest = checkpoints.find_checkpoint(str(write(tmp_path, 1, end_due=due)))
    assert manifest.get("end_due") is (True if due else None)


def test_finding_what_the_flag_names(tmp_path):
    run = tmp_path / "run"
    write(run / "checkpoints", 1), write(run / "checkpoints", 2)
    assert checkpoints.find_checkpoint(str(run))[1]["step"] == 2
    assert checkpoints.find_checkpoint(str(run / "checkpoints/step_00000001"))[1]["step"] == 1
    for path, message in (
        (run / "checkpoints/step_00000009", "is not a whole checkpoint"),
        (tmp_path, "holds no checkpoint"),
        (tmp_path / "absent", "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            checkpoints.find_checkpoint(str(path))
    with pytest.raises(UserError, match=f"^--model_dir: {tmp_path}/absent does not exist"):
        checkpoints.find_checkpoint(str(tmp_path / "absent"), flag="--model_dir")


def variables():
    return {
        "backbone/kernel": keras.Variable(np.zeros([2, 3], np.float32)),
        "probe/bias": keras.Variable(np.zeros([3], np.float32)),
    }


FULL = {
    "backbone/kernel": np.full([2, 3], 2.0, np.float32),
    "probe/bias": np.full([3], 3.0, np.float32),
}


def test_restoring_fills_every_variable():
    state = variables()
    assert checkpoints.restore(state, {**FULL, "other": np.ones(1)}, source="c") == []
    for name, value in FULL.items():
        np.testing.assert_array_equal(state[name].numpy(), value)


@pytest.mark.parametrize(
    ("held", "options", "message"),
    [
        ({"backbone/kernel": FULL["backbone/kernel"]}, {}, "c lacks 1 of 2 .* probe/bias"),
        ({"probe/bias": FULL["probe/bias"]}, {"allow_missing": "probe"}, "lacks 1 of 2 .*kernel"),
        ({**FULL, "probe/bias": np.ones([4])}, {}, r"probe/bias has shape \(4,\) there, \(3,\) he"),
        ({**FULL, "z": np.ones(1)}, {"whole": True}, "holds 1 variables more, the first is z"),
    ],
)
def test_what_does_not_fit_is_an_error_and_assigns_nothing(held, options, message):
    state = variables()
    with pytest.raises(UserError, match=message):
        checkpoints.restore(state, held, source="c", **options)
    assert not any(np.any(variable.numpy()) for variable in state.values())


def test_what_may_be_missing_stays():
    state = variables()
    held = {"backbone/kernel": FULL["backbone/kernel"]}
    allowed = {"allow_missing": "projector, probe/"}
    assert checkpoints.restore(state, held, source="c", **allowed) == ["probe/bias"]
    assert not np.any(state["probe/bias"].numpy())
    assert np.all(state["backbone/kernel"].numpy() == 2)


def test_versions_are_words():
    assert all(isinstance(word, str) for word in checkpoints.versions().values())
    assert {"tfcontrast", "tensorflow", "keras", "numpy", "python"} == set(checkpoints.versions())
