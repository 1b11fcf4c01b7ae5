"""Signals and the time limit, without TensorFlow: what is raised where, and what ends at once."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from tfcontrast.train import interruption
from tfcontrast.train.interruption import Interrupted, asked, deferred, listening

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    """A process that a shell has put in the background starts with interruptions ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number):
    os.kill(os.getpid(), number)


def wait_until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_where_nothing_is_to_be_saved_it_is_raised_at_once(number):
    def body():
        with listening(ends_process=True):
            send(number)
            time.sleep(10)

    with pytest.raises(Interrupted) as caught:
        body()
    name = signal.Signals(number).name
    assert str(caught.value) == (
        f"stopped by {name}; the same command goes on from the last checkpoint"
    )
    assert not isinstance(caught.value, Exception)


@pytest.mark.parametrize("number", SIGNALS)
def test_where_something_is_to_be_saved_it_is_marked(number, capfd):
    name = signal.Signals(number).name
    seen = []

    def body():
        with listening():
            with deferred():
                seen.append(asked())
                send(number)
                wait_until(asked)
                interruption.resumes_from("step_7")
                time.sleep(0.1)  # the thread's word
                seen.append(asked())
            seen.append("nobody has acted on it")

    with pytest.raises(Interrupted, match=f"stopped by {name}; .* from step_7$"):
        body()
    assert seen == ["", name]
    again = "press again" if name == "SIGINT" else "send another signal"
    assert capfd.readouterr().err == f"{name}: saving after this step; {again} to stop at once\n"


def test_an_error_from_within_is_not_hidden_by_a_signal():
    def body():
        with listening(), deferred():
            send(signal.SIGTERM)
            wait_until(asked)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        body()


def test_nothing_is_left_behind():
    handlers = [signal.getsignal(number) for number in SIGNALS]
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for error in (None, Interrupted, ValueError):
        with listening(ends_process=True):
            assert [signal.getsignal(number) for number in SIGNALS] != handlers
            if error:
                with pytest.raises(error), deferred():
                    raise error
        assert [signal.getsignal(number) for number in SIGNALS] == handlers
        assert threading.active_count() == threads
        assert len(os.listdir("/proc/self/fd")) == files
    assert signal.set_wakeup_fd(-1) == write
    os.close(read), os.close(write)
    assert asked() == ""


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with listening(ends_process=True):
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
            send(signal.SIGUSR1)
            time.sleep(0.05)
            assert asked() == ""
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_signals_that_another_library_has_taken_come_back():
    """At the level of C, where Python does not see it, as TensorFlow does."""
    taken = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: None)
    with listening(), deferred():
        for claim in (interruption.claim_signals, listening().__enter__):
            ctypes.CDLL(None).signal(signal.SIGUSR1, taken)
            send(signal.SIGUSR1)
            time.sleep(0.05)
            assert asked() == ""
            claim()
        send(signal.SIGUSR1)
        wait_until(asked)
        interruption._current.reason = ""


def test_in_another_thread_only_the_time_limit_counts():
    seen = []

    def work():
        with listening(hours=0.2 / 3600):
            seen.append([signal.getsignal(number) for number in SIGNALS])
            seen.append(asked())
            wait_until(asked)
            seen.append(asked())

    handlers = [signal.getsignal(number) for number in SIGNALS]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handlers, "", "--max_runtime=5.55556e-05"]


@pytest.mark.parametrize("hours", [(0.4, 0.0), (0.0, 0.4), (0.4, 100.0), (100.0, 0.4)])
def test_the_time_limit_is_the_shortest_and_counts_from_the_outer_start(hours):
    def body():
        with listening(hours=hours[0] / 3600):
            time.sleep(0.3)
            with listening(hours=hours[1] / 3600):
                wait_until(lambda: False)

    start = time.monotonic()
    with pytest.raises(Interrupted, match=r"^stopped by --max_runtime=0\.000111111; "):
        body()
    assert 0.4 <= time.monotonic() - start < 3  # the thread looks every second


def test_the_time_limit_waits_for_what_is_to_be_saved():
    start, seen = time.monotonic(), []

    def body():
        with listening(hours=0.2 / 3600), deferred():
            wait_until(asked)
            seen.append(time.monotonic() - start)
            time.sleep(1.1)  # the thread does not raise
            seen.append(asked())

    with pytest.raises(Interrupted):
        body()
    assert 0.2 <= seen[0] < 0.6
    assert seen[1] == "--max_runtime=5.55556e-05"


def test_a_library_keeps_the_users_handlers_for_the_second_signal():
    """A notebook must not die of two interruptions."""

    def body():
        with listening(), deferred():
            for _ in range(2):
                send(signal.SIGINT)
                wait_until(asked)
                time.sleep(interruption._SAME + 0.1)
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        body()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


SCRIPT = """
import os, signal, sys, time
from tfcontrast.train import interruption
from tfcontrast.train.interruption import asked, deferred, listening, saving
signal.signal(signal.SIGINT, signal.default_int_handler)
interruption._GRACE, interruption._LEAVING = 0.5, 0.2
with listening(ends_process=True):
    interruption.resumes_from("step_3")
"""


def start(body):
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT + "".join(f"    {line}\n" for line in body.splitlines())],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "ready\n"
    return child


def end(child, limit=5):
    start = time.monotonic()
    _, errors = child.communicate(timeout=30)
    assert time.monotonic() - start < limit
    return child.returncode, errors


WAIT = """\
with deferred():
    print("ready", flush=True)
    time.sleep(60)"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_the_process(number):
    child = start(f"interruption._GRACE = 30\n{WAIT}")
    child.send_signal(number)
    time.sleep(interruption._SAME + 0.2)
    assert child.poll() is None
    child.send_signal(number)
    code, errors = end(child)
    assert code == 128 + number
    assert errors.splitlines()[1:] == ["ended at once; the same command goes on from step_3"]


def test_a_step_that_does_not_end_is_left():
    child = start(WAIT)
    child.send_signal(signal.SIGTERM)
    code, errors = end(child)
    assert code == interruption.RESUME_ME == 75
    assert re.fullmatch(
        "stopped by SIGTERM in something that did not end within [01] s; the same command goes on "
        "from step_3",
        errors.splitlines()[1],
    )


def test_a_save_is_waited_for():
    child = start(
        'with deferred(), saving():\n    print("ready", flush=True)\n    time.sleep(2)\n'
        '    print("saved", flush=True)'
    )
    child.send_signal(signal.SIGTERM)
    out, errors = child.communicate(timeout=30)
    assert out == "saved\n"
    assert "stopped by SIGTERM; the same command goes on from step_3" in errors
    assert child.returncode == 1  # the exception, which nobody catches here


def test_a_signal_that_is_sent_twice_at_once_is_one():
    """timeout(1) signals the process, and then its group."""
    child = start(WAIT.replace("60", "0.4") + "\n    sys.exit(7)")
    for _ in range(2):
        child.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    assert end(child)[0] == 7


def test_a_forked_child_has_signals_of_its_own():
    child = start("""\
with deferred():
    child = os.fork()
    if not child:
        time.sleep(10)
        os._exit(0)
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("ready", flush=True)
    time.sleep(0.2)
    sys.exit(code == -signal.SIGTERM and not asked())""")
    assert end(child)[0] == 1
