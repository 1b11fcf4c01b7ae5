import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from tfcontrast.errors import UserError
from tfcontrast.train import lock

HOLDER = """
import pathlib, sys, time
from tfcontrast.train.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def take(folder):
    with lock.locked(folder):
        return (folder / lock.LOCK).read_text()


def test_a_second_process_is_refused_and_a_death_frees(tmp_path, holder):
    with pytest.raises(UserError) as caught:
        take(tmp_path)
    assert str(caught.value) == (
        f"--model_dir={tmp_path} is in use by process {holder.pid} on {socket.gethostname()}; end "
        "that, or give another --model_dir"
    )
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / lock.LOCK).exists()
    assert take(tmp_path) == f"process {os.getpid()} on {socket.gethostname()}\n"
    assert list(tmp_path.iterdir()) == []


def test_it_is_given_back_after_an_error(tmp_path):
    def fail():
        with lock.locked(tmp_path):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []
    take(tmp_path)


def test_a_file_that_was_deleted_meanwhile_is_no_lock(tmp_path, monkeypatch):
    """Between opening and locking, the holder may have deleted the file and another made anew."""
    flock, calls = fcntl.flock, []

    def late(handle, operation):
        if not calls:
            (tmp_path / lock.LOCK).unlink()
            (tmp_path / lock.LOCK).touch()
        calls.append(handle)
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    assert take(tmp_path).startswith("process ")
    assert len(calls) == 2


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog, code):
    def refuse(handle, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    take(tmp_path)
    assert f"{tmp_path} has no locks ({os.strerror(code)}): nothing keeps" in caplog.text


def test_a_folder_that_cannot_be_written():
    with pytest.raises(UserError, match="--model_dir=/proc/1 cannot be written: "):
        take(lock.pathlib.Path("/proc/1"))
