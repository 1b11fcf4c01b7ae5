import types

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute
from tfcontrast.errors import UserError
from tfcontrast.train import checkpoints, interruption, saving
from tfcontrast.train.interruption import Interrupted

LOGS = {"loss": 0.5, "knn": 0.25}


@pytest.fixture
def drive(monkeypatch, tmp_path):
    """Drives the callbacks through epochs of 4 steps: gives what was written and pruned.

    ``ask`` is (step, stage): a stop is asked for in a step, or in an epoch's end before the monitor
    or after it; ``None`` for the stage of a step.
    """
    found = types.SimpleNamespace(written=[], due=[], logs={}, pruned=[], place="")

    def write(folder, arrays, *, step, config, logs, end_due):
        if step in found.full:
            raise OSError(28, "No space left on device")
        found.written.append(step)
        found.logs[step] = dict(logs)
        found.due += [step] if end_due else []
        return folder / f"step_{step}"

    def prune(folder, keep, *, every):
        found.pruned.append((keep, every))

    monkeypatch.setattr(checkpoints, "write_checkpoint", write)
    monkeypatch.setattr(checkpoints, "prune_checkpoints", prune)
    monkeypatch.setattr(saving.state, "full_state", lambda model: {})
    monkeypatch.setattr(interruption, "asked", lambda: found.asked)
    monkeypatch.setattr(interruption, "resumes_from", lambda place: setattr(found, "place", place))
    optimizer = types.SimpleNamespace(iterations=0)
    model = types.SimpleNamespace(
        steps_per_execution=1, optimizer=optimizer, distribute_strategy=tf.distribute.get_strategy()
    )

    def run(*, last, first=0, full=(), ask=(None, None), writes=True, **options):
        found.full, found.asked = full, ""
        saver = saving.Checkpoints(tmp_path, {}, keep=2, last_step=last, **options)
        stopper = saving.Stopper(saver if writes else None, last_step=last)
        callbacks = [saver, stopper] if writes else [stopper]
        step = optimizer.iterations = first
        while step < last:
            steps = min(4 - step % 4, last - step)
            for callback in callbacks:
                callback.set_model(model)
                callback.set_params({"steps": steps})
                callback.on_train_begin()
            for batch in range(steps):
                step = optimizer.iterations = step + 1
                found.asked = found.asked or ("SIGTERM" if ask == (step, None) else "")
                for callback in callbacks:
                    callback.on_train_batch_end(batch, {"loss": tf.constant(0.5)})
            found.asked = found.asked or ("SIGTERM" if ask == (step, "monitor") else "")
            stopper.break_off({"loss": 0.5})
            found.asked = found.asked or ("SIGTERM" if ask == (step, "end") else "")
            for callback in callbacks:
                callback.on_epoch_end(step // 4, {"loss": 0.5, "knn": np.float32(0.25)})
            for callback in callbacks:
                callback.on_train_end()
        return found

    run.found = found
    return run


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every": 4, "last": 8}, [4, 8]),
        ({"every": 3, "last": 10}, [3, 6, 9, 10]),
        ({"every": 3, "last": 10, "first": 5}, [6, 9, 10]),
        ({"every": 100, "last": 6}, [6]),
        ({"every": 1, "last": 3}, [1, 2, 3]),
        ({"every": 4, "keep_every": 6, "last": 13}, [4, 6, 8, 12, 13]),
    ],
)
def test_checkpoints_come_in_time_and_once(drive, options, steps):
    found = drive(**options)
    assert found.written == steps
    assert found.due == []
    assert found.place == f"step_{steps[-1]}"
    assert found.pruned == [(2, options.get("keep_every", 0))] * len(steps)
    for step in steps:
        ends_an_epoch = step % 4 == 0 or step == options["last"]
        assert found.logs[step] == (LOGS if ends_an_epoch else {})


def test_a_full_disk_does_not_end_the_training(drive, caplog):
    found = drive(every=2, last=8, full=(4, 6))
    assert found.written == [2, 8]
    assert caplog.text.count("; training goes on, older checkpoints are untouched") == 2


def test_a_full_disk_at_the_end_is_told(drive, caplog):
    with pytest.raises(UserError, match=r"the last checkpoint could not be written to .* free"):
        drive(every=2, last=8, full=(8,))
    assert drive.found.place == "step_6"
    assert "training goes on" not in caplog.text
    assert "No space left on device; older checkpoints are untouched" in caplog.text


@pytest.mark.parametrize(
    ("ask", "written", "due", "logs"),
    [
        ((3, None), [2, 3], [], {}),  # in a step
        ((2, None), [2], [], {}),  # in one whose checkpoint is in its turn
        ((4, None), [2, 4], [4], {"loss": 0.5}),  # in an epoch's last: before the monitor
        ((5, None), [2, 4, 5], [], {}),
        ((4, "monitor"), [2, 4], [4], {"loss": 0.5}),
        ((4, "end"), [2, 4], [], LOGS),
        ((7, "end"), [2, 4, 6, 7], [], LOGS),  # after the run's last
    ],
)
def test_a_stop_saves_once_and_says_how_to_go_on(drive, ask, written, due, logs):
    with pytest.raises(Interrupted) as caught:
        drive(every=2, last=7, ask=ask)
    found = drive.found
    assert (found.written, found.due, found.logs[ask[0]]) == (written, due, logs)
    assert str(caught.value) == (
        f"stopped by SIGTERM after step {ask[0]} of 7, saved; the same command goes on from there"
    )


def test_a_stop_on_a_full_disk(drive, caplog):
    with pytest.raises(Interrupted, match=r"step 3 of 8; .* goes on from the checkpoint before$"):
        drive(every=2, last=8, ask=(3, None), full=(3,))
    assert "No space left on device; older checkpoints are untouched" in caplog.text
    assert drive.found.written == [2]


def agree(monkeypatch, answers):
    """Two workers, of which the other one gives these answers."""
    asked = []

    def any_worker(strategy, flag):
        asked.append(flag)
        return flag or answers.get(len(asked), False)

    monkeypatch.setattr(distribute, "num_workers", lambda strategy: 2)
    monkeypatch.setattr(distribute, "any_worker", any_worker)
    return asked


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize(("step", "due"), [(3, []), (4, [4]), (6, [])])
def test_several_workers_stop_when_another_is_asked(drive, monkeypatch, writes, step, due):
    asked = agree(monkeypatch, {step: True})
    with pytest.raises(Interrupted, match=f"^stopped by another worker after step {step} of 8"):
        drive(every=100, last=8, writes=writes)
    assert drive.found.written == ([step] if writes else [])
    assert drive.found.due == (due if writes else [])
    assert asked == [False] * (step + 1)  # every step once, and once until the chief has saved


@pytest.mark.parametrize("stage", ["monitor", "end"])
def test_several_workers_stop_only_after_a_step(drive, monkeypatch, stage):
    """Within an epoch's end only one of them knows; it must not leave the others alone."""
    asked = agree(monkeypatch, {})
    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM after step 5 of 8"):
        drive(every=100, last=8, ask=(4, stage))
    assert drive.found.written == [5]
    assert asked == [False] * 4 + [True, False]
