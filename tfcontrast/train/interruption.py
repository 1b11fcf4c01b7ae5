"""Stopping on request: signals and the time limit, so that the same command goes on later.

The first SIGTERM, SIGINT or SIGUSR1 asks for a stop: the step ends, its state is saved and
:class:`Interrupted` leaves the training; where nothing has to be saved it is raised at once. The
second one ends the process at once. Python runs a signal's handler only between two instructions of
the main thread, which may be waiting inside TensorFlow for a batch that never comes; so a thread of
its own reads every signal from a pipe, and ends a process whose step does not end.

Standard library only, since it is needed before TensorFlow is imported.
"""

import contextlib
import math
import os
import selectors
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

RESUME_ME = 75
"""The exit code that asks for the same command again: EX_TEMPFAIL of sysexits.h."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# Spot instances and schedulers kill 30 s after their first signal.
_GRACE = 20.0
_LEAVING = 5.0
# timeout(1) and srun send one signal twice, to the process and to its group.
_SAME = 0.3


class Interrupted(BaseException):
    """A run was stopped and can be resumed; the message is one line that says how.

    Not an ``Exception``, as KeyboardInterrupt is none: it may be raised anywhere, and must pass
    whoever catches those.
    """


class _Listener:
    """What is asked for, by whom, and until when.

    Args:
        ends_process: the process is the run's own: a second signal, or a step that does not end,
            ends it.
    """

    def __init__(self, ends_process: bool) -> None:
        self.reason = ""
        self.place = "the last checkpoint"
        self.deferrals = 0
        self._ends_process = ends_process
        self._started = time.monotonic()
        self._limit, self._until = "", math.inf
        self._asked = self._signalled = self._deadline = math.inf
        self._saving = 0
        self._again = False
        self._own = 0  # signals that the thread has sent to the main thread
        self._previous: dict[int, Any] = {}
        self._wakeup = -1

    def limit(self, hours: float) -> None:
        """Stops the run this long after it began; 0: never."""
        until = self._started + 3600 * hours if hours else math.inf
        if until < self._until:
            self._limit, self._until = f"--max_runtime={hours:g}", until

    def ask(self, reason: str) -> None:
        """Asks for a stop; the first reason counts."""
        if not self.reason:
            self._asked = time.monotonic()
            self._deadline = self._asked + _GRACE
            self.reason = reason

    def check_limit(self) -> None:
        """Asks for a stop when the time is over."""
        if time.monotonic() >= self._until:
            self.ask(self._limit)

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Lets a checkpoint take as long as it takes."""
        self._saving += 1
        try:
            yield
        finally:
            self._deadline = max(self._deadline, time.monotonic() + _LEAVING)
            self._saving -= 1

    def interrupted(self) -> Interrupted:
        """The exception of a stop where nothing was left to save."""
        return Interrupted(f"stopped by {self.reason}; the same command goes on from {self.place}")

    def install(self) -> None:
        """Starts the thread and sets the handlers; for the main thread only."""
        self._main = threading.get_ident()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._thread = threading.Thread(target=self._watch, name="interruption", daemon=True)
        self._thread.start()
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        # nohup, and a shell that starts a job in the background, have signals ignored on purpose.
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._previous = {n: handler for n, handler in before.items() if handler != signal.SIG_IGN}
        self.claim()

    def claim(self) -> None:
        """Sets the handlers, also where another library has set its own since."""
        if threading.current_thread() is threading.main_thread():
            for number in self._previous:
                signal.signal(number, self._handle)

    def remove(self) -> None:
        """Leaves the process as it was."""
        self.deferrals += 1  # nothing is raised in here
        self._restore()
        signal.set_wakeup_fd(self._wakeup)
        os.write(self._write, b"\0")
        self._thread.join()
        os.close(self._write)
        os.close(self._read)

    def forget(self) -> None:
        """For a forked child, whose signals would be written into its parent's pipe."""
        if self._previous:
            self._restore()
            signal.set_wakeup_fd(-1)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Runs in the main thread: breaks off what needs no saving."""
        if self._again:
            self._restore()
            previous = self._previous[number]
            if callable(previous):
                previous(number, frame)
            else:
                signal.raise_signal(number)
        self.ask(signal.Signals(number).name)
        if not self.deferrals:
            raise self.interrupted()

    def _watch(self) -> None:
        """Runs in the thread, whatever the main thread is blocked in."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            while True:
                # It wakes up every second, since the main thread moves the deadlines.
                numbers = os.read(self._read, 64) if selector.select(1.0) else b""
                if 0 in numbers:
                    return
                for number in numbers:
                    self._count(number)
                if not self.reason and time.monotonic() >= self._until:
                    self.check_limit()
                    self._announce()
                    self._wake(signal.SIGUSR1)  # where nobody asks, it is raised as for a signal
                self._enforce()

    def _count(self, number: int) -> None:
        now = time.monotonic()
        if number not in self._previous:
            return
        if self._own:
            self._own -= 1
        elif self._signalled == math.inf:
            self._signalled = now
            self.ask(signal.Signals(number).name)
            self._announce()
        elif now - self._signalled > _SAME:
            if self._ends_process:
                _end(128 + number, f"ended at once; the same command goes on from {self.place}")
            self._again = True
            self._wake(number)

    def _announce(self) -> None:
        if self.deferrals:
            again = "press again" if self.reason == "SIGINT" else "send another signal"
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(
                    f"{self.reason}: saving after this step; {again} to stop at once\n"
                )
                sys.stderr.flush()

    def _wake(self, number: int) -> None:
        """Lets the handler run in the main thread."""
        if number in self._previous:
            self._own += 1
            signal.pthread_kill(self._main, number)

    def _enforce(self) -> None:
        now = time.monotonic()
        if self._ends_process and not self._saving and now >= self._deadline:
            _end(
                RESUME_ME,
                f"stopped by {self.reason} in something that did not end within "
                f"{now - self._asked:.0f} s; the same command goes on from {self.place}",
            )


def _end(code: int, line: str) -> None:
    """Ends the process whatever its other threads do."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
    os._exit(code)


_NOBODY = _Listener(ends_process=False)
_current = _NOBODY


def _forget() -> None:
    global _current
    _current.forget()
    _current = _NOBODY


os.register_at_fork(after_in_child=_forget)


@contextlib.contextmanager
def listening(*, hours: float = 0.0, ends_process: bool = False) -> Iterator[None]:
    """Listens to signals, and leaves the process's handlers as they were.

    Within another ``listening`` it only adds its time limit. Outside of the main thread, where
    Python allows no handlers, only the time limit counts.

    Args:
        hours: the time limit, from the outermost ``listening``'s start; 0: none.
        ends_process: a second signal, or a step that does not end within 20 s after the first, ends
            the process. Otherwise the second signal goes to the handler that was there before.
    """
    global _current
    if _current is not _NOBODY:
        _current.limit(hours)
        claim_signals()
        yield
        return
    listener = _Listener(ends_process)
    listener.limit(hours)
    installs = threading.current_thread() is threading.main_thread()
    _current = listener
    try:
        if installs:
            listener.install()
        yield
    finally:
        _current = _NOBODY
        if installs:
            listener.remove()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal only marks: whoever is inside asks for it with :func:`asked`.

    Raises:
        Interrupted: at the end, when a stop was asked for and nobody has acted on it.
    """
    listener = _current
    listener.deferrals += 1
    try:
        yield
    finally:
        listener.deferrals -= 1
    if asked():
        raise listener.interrupted()


def claim_signals() -> None:
    """Takes the signals back: TensorFlow takes SIGTERM for itself when several workers start."""
    _current.claim()


def asked() -> str:
    """Who asks for a stop: a signal's name or the time limit; empty when nobody does."""
    _current.check_limit()
    return _current.reason


def saving() -> contextlib.AbstractContextManager[None]:
    """Inside, a checkpoint is written, which the grace time does not cut off."""
    return _current.saving()


def resumes_from(place: str) -> None:
    """Remembers the checkpoint from which the same command would go on, for the last line."""
    _current.place = place
