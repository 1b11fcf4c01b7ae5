"""Images that cannot be read: each is named once, and too many of them stop the run."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence

from tfcontrast.errors import UserError

_LOG = logging.getLogger(__name__)
_MOST_NAMED = 20  # in one message
_RECOGNIZED = 60  # characters by which a message is found again; TensorFlow cuts long ones

# What was named in this process: a run opens the same files for several purposes.
_NAMED: set[str] = set()
# What the code inside of a data set had to say to the user; see `plain_errors`.
_VERDICTS: list[UserError] = []


class BadImages:
    """What is known of the bad images of one opened split, shared by all of its parts.

    Args:
        where: the split in words, such as a folder's path.
        total: images of the split.
        limit: largest share of them that may be bad.
        name: place to the name of its file or record.
        explain: place to the reason why it cannot be read, found by reading it again.
        told: names that need not be told again; None: those of this process.
    """

    def __init__(
        self,
        where: str,
        total: int,
        *,
        limit: float = 0.01,
        name: Callable[[int], str],
        explain: Callable[[int], str],
        told: set[str] | None = None,
    ) -> None:
        self._told = _NAMED if told is None else told
        self._where, self._total, self._limit = where, total, limit
        self._name, self._explain = name, explain
        self._known: set[int] = set()
        self._verdict: UserError | None = None
        self._lock = threading.Lock()

    @property
    def accepted(self) -> int:
        """How many images may be bad."""
        return int(self._limit * self._total)

    def report(self, places: Sequence[int], reasons: Sequence[str] | None = None) -> None:
        """Names in the log what was not known to be bad.

        Args:
            places: images that could not be read.
            reasons: why; None: found out here.

        Raises:
            UserError: too many are bad by now.
        """
        with self._lock:
            if self._verdict:
                raise self._verdict
            fresh = [i for i, place in enumerate(places) if place not in self._known]
            if not fresh:
                return
            self._known.update(places[i] for i in fresh)
            names = [self._name(places[i]) for i in fresh]
            texts = [
                f"{name} ({reasons[i] if reasons else self._explain(places[i])})"
                for i, name in zip(fresh[:_MOST_NAMED], names, strict=False)
            ]
            if len(fresh) > _MOST_NAMED:
                texts.append(f"and {len(fresh) - _MOST_NAMED} more")
            told, count = "; ".join(texts), len(self._known)
            if count > self.accepted or count == self._total:
                self._verdict = verdict(
                    f"{count} of {self._total} images in {self._where} cannot be read, more than "
                    f"--max_bad_images={self._limit:g} accepts: {told}"
                )
                raise self._verdict
            identities = {f"{self._where}\0{name}" for name in names}
            if not identities <= self._told:
                self._told.update(identities)
                _LOG.warning("left out %d of %d images in %s: %s", count, self._total,
                             self._where, told)  # fmt: skip


def verdict(message: str) -> UserError:
    """An error that `plain_errors` finds again after it went through TensorFlow."""
    error = UserError(message)
    _VERDICTS.append(error)
    return error


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Gives back the `UserError` that was raised inside of a data set.

    TensorFlow turns an exception of a Python function within a data set into an error of its own,
    with a traceback as its text.
    """
    _VERDICTS.clear()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = str(error)  # threads of another data set may have raised theirs meanwhile
        for said in _VERDICTS:
            if str(said)[:_RECOGNIZED] in text:
                raise said from error
        raise


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(getattr(error, "message", None) or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
