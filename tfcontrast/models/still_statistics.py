"""Passes in training mode that leave batch norm's moving statistics alone."""

import contextlib
import contextvars
from collections.abc import Iterator

# Replicas are threads, which change places at every collective: each has its own value.
_STILL: contextvars.ContextVar[bool] = contextvars.ContextVar("still", default=False)


@contextlib.contextmanager
def still_statistics() -> Iterator[None]:
    """Within it, a pass in training mode normalises by its batch and moves nothing.

    What an untrained network embeds is of use only by its batches' statistics, since it has no
    others; but a look at the data should not change the network. Nor should a pass that is run a
    second time. A function that is traced within it stays so.
    """
    token = _STILL.set(True)
    try:
        yield
    finally:
        _STILL.reset(token)


def statistics_stand_still() -> bool:
    """Whether this thread is within ``still_statistics``."""
    return _STILL.get()
