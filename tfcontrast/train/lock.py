"""One process at a time trains in a run's folder."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import socket
from collections.abc import Iterator

from tfcontrast.errors import UserError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder for this process; the kernel frees it when the process dies in any way.

    On a file system without locks there is a warning only.

    Raises:
        UserError: another process holds the folder, or it cannot be written.
    """
    path = folder / LOCK
    try:
        handle = _take(path)
    except BlockingIOError as error:
        with contextlib.suppress(OSError):
            holder = path.read_text(encoding="utf-8", errors="replace").strip()
        raise UserError(
            f"--model_dir={folder} is in use by {holder or 'another process'}; end that, or give "
            "another --model_dir"
        ) from error
    except OSError as error:
        raise UserError(
            f"--model_dir={folder} cannot be written: {error.strerror or error}"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _take(path: pathlib.Path) -> int:
    """Opens and locks the file; it is deleted when it is given back, so it may be another by then.

    Raises:
        BlockingIOError: another process holds it.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise
            except OSError as error:
                if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL):
                    raise
                logging.getLogger(__name__).warning(
                    "%s has no locks (%s): nothing keeps a second process out of this run's folder",
                    path.parent,
                    error.strerror,
                )
                return handle
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    os.truncate(handle, 0)
                    os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
