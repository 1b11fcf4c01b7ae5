import io
import os
import types

import pytest

from tfcontrast.train import progress


@pytest.fixture
def clock(monkeypatch):
    state = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: state.now)
    return state


def drive(shown, clock, *, steps, epoch, logs):
    shown.set_model(types.SimpleNamespace(steps_per_execution=1))
    shown.on_train_begin()
    shown.on_epoch_begin(epoch)
    for batch in range(steps):
        clock.now += 2.0
        shown.on_train_batch_end(batch, {"loss": 1.5})
    shown.on_epoch_end(epoch, logs)


def test_a_pipe_gets_one_line_an_epoch(clock, capsys):
    shown = progress.Progress(batch_size=32, epochs=3, total_steps=30, first_step=0)
    logs = {
        "other": 1.0,
        "loss": 1.23456,
        "contrastive_accuracy": 0.5,
        "probe_top1": 0.25,
        "monitor_knn_top1": 0.981,
        "examples_per_second": 99.6,
        "input_wait_share": 0.123,
    }
    drive(shown, clock, steps=10, epoch=0, logs=logs)
    assert capsys.readouterr().out == (
        "epoch 1/3  step 10/30  loss 1.2346  contrastive 50.0 %  probe 25.0 %  "
        "held-out kNN 98.1 %  100 images/s  input wait 12 %  0:40 left\n"
    )


def test_the_rest_is_counted_from_this_sessions_speed(clock, capsys):
    shown = progress.Progress(batch_size=32, epochs=3, total_steps=30, first_step=20)
    drive(shown, clock, steps=5, epoch=2, logs={"loss": 1.0})
    assert capsys.readouterr().out == "epoch 3/3  step 25/30  loss 1.0000  0:10 left\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (90061, "25:01:01")],
)
def test_clock(seconds, text):
    assert progress._clock(seconds) == text


@pytest.mark.parametrize(("columns", "shows"), [(0, False), (1, True), (80, True)])
def test_a_terminal_without_a_width_gets_lines(monkeypatch, columns, shows):
    screen = types.SimpleNamespace(isatty=lambda: True, fileno=lambda: 7)
    monkeypatch.setattr(progress.sys, "stdout", screen)
    size = {7: os.terminal_size((columns, 24))}
    monkeypatch.setattr(progress.os, "get_terminal_size", size.__getitem__)
    assert progress._shows_bars() is shows


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_the_monitors_lines(clock, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(progress.sys, "stdout", screen)
    shown = progress.Progress(batch_size=32, epochs=2, total_steps=20, first_step=0)
    drive(shown, clock, steps=10, epoch=0, logs={"loss": 1.0})
    assert shown._bar.n == 320
    assert shown._bar.desc.startswith("epoch 1/2 step 10/20")
    assert shown._bar.postfix == "loss=1.5000"
    # what is drawn with an update is of its step
    assert "step 10/20: 100%" not in screen.getvalue()
    shown._bar.mininterval = 0
    shown._bar.miniters = 1
    shown.on_train_batch_end(10, {"loss": 1.5})
    assert "step 11/20:  55%" in screen.getvalue()
    shown._bar.update(-32)
    shown._step -= 1
    assert "epoch 1/2  step" not in screen.getvalue()
    drive(shown, clock, steps=10, epoch=1, logs={"loss": 1.0, "monitor_knn_top1": 0.5})
    assert "epoch 2/2  step 20/20  loss 1.0000  held-out kNN 50.0 %" in screen.getvalue()
    shown.close()
    assert shown._bar is None
    shown.close()
