"""What a run says: lines and tables on standard output."""

import sys
from collections.abc import Sequence


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
