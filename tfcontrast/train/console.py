"""What a run says: lines and tables on standard output; nothing of what TensorFlow says.

Standard library only, since it is needed before TensorFlow's first word.
"""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence

from tfcontrast.errors import UserError


def say(text: str = "") -> None:
    """Prints a line at once, also into a pipe."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out a small table: first column left, the others right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    texts = []
    for line in lines:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        texts.append("  " + "  ".join([first, *others]).rstrip())
    texts.insert(1, "  " + "  ".join("-" * width for width in widths))
    return "\n".join(texts)


def percent(share: float | None) -> str:
    """A share in [0, 1] as percent with one decimal; a dash when it was not measured."""
    return "-" if share is None else f"{100 * share:.1f}"


def plain(text: str) -> str:
    """A message as one line, without TensorFlow's names of its nodes and operations."""
    return re.sub(r"\{\{.*?\}\} | *\[Op:\w*\].*", "", " ".join(text.split()))


@contextlib.contextmanager
def quiet(enabled: bool) -> Iterator[None]:
    """Hides what TensorFlow's C++ writes to standard error at start-up, unless that fails."""
    if not enabled:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        except UserError:
            raise
        except BaseException:
            caught.seek(0)
            os.write(kept, caught.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
