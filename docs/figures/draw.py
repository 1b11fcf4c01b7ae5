"""Draws the figures of methods.md: ``python docs/figures/draw.py`` writes an SVG for each method.

What a figure shows is in ``figures.toml``; how it looks is here. Of the standard library only.

A box is ``name = [kind, column, row]``, with a second line of text as a fourth entry. Columns are
as wide as their widest box; rows are 35 pixels and may be fractions. The kinds are in ``KINDS``;
boxes of the kinds in ``ATTRIBUTES`` are named as the method's attributes are.

An arrow is ``"box -> box -> box"``: ``->`` carries a gradient back, ``-->`` does not, ``==>`` is
the arrow at which a gradient stops, ``..>`` is what moves after the step. ``box.top`` (or bottom,
left, right) says where an arrow meets a box; without it that is between the sides that face each
other. ``"a -> b : text"`` puts text beside it.
"""

import dataclasses
import math
import pathlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

FOLDER = pathlib.Path(__file__).parent
WIDTH, ROW, MARGIN, EDGE = 640, 35, 40, 14
MONO = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
SANS = "system-ui,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif"

# kind -> fill, outline, its width, its dashes, radius of the corners. Light colours on a card of
# its own, so that a figure looks the same on a light and on a dark page; each kind differs by its
# outline too.
KINDS = {
    "view": ("#f6f8fa", "#57606a", 1, "", 2),
    "network": ("#ddf4ff", "#0969da", 1.5, "", 6),
    "copy": ("#ffffff", "#0969da", 1.5, "5 3", 6),
    "state": ("#fff8c5", "#9a6700", 2.5, "", 0),
    "step": ("#ffffff", "#57606a", 1, "", 15),
    "loss": ("#ffebe9", "#cf222e", 1.5, "", 6),
}
ATTRIBUTES = ("network", "copy", "state")
# arrow -> colour, dashes
ARROWS = {
    "->": ("#24292f", ""),
    "-->": ("#24292f", "6 3"),
    "==>": ("#24292f", "6 3"),
    "..>": ("#9a6700", "1.5 3.5"),
}
SIDES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Box:
    """A box by its center and size, in pixels."""

    name: str
    kind: str
    note: str
    x: float
    y: float
    width: float
    height: float

    def port(self, side: str) -> Point:
        """The middle of a side."""
        dx, dy = SIDES[side]
        return self.x + dx * self.width / 2, self.y + dy * self.height / 2


def attributes_of(figure: Mapping[str, Any]) -> list[str]:
    """The names in a figure that are attributes of the method."""
    return [name for name, box in figure["boxes"].items() if box[0] in ATTRIBUTES]


def size_of(name: str, box: Sequence[Any]) -> tuple[float, float]:
    """Width and height of a box, as 12 pixel letters need them."""
    note = box[3] if len(box) > 3 else ""
    letter = 7.3 if box[0] in ATTRIBUTES else 6.9
    return 16 + max(letter * len(name), 6.9 * len(note)), 46 if note else 30


def place(figure: Mapping[str, Any]) -> dict[str, Box]:
    """Lays the boxes out: columns share the free width evenly."""
    boxes, width = figure["boxes"], figure.get("width", WIDTH)
    sizes = {name: size_of(name, box) for name, box in boxes.items()}
    columns = sorted({box[1] for box in boxes.values() if box[1] == int(box[1])})
    widths = [max(sizes[n][0] for n, box in boxes.items() if box[1] == c) for c in columns]
    gap = (width - 2 * EDGE - sum(widths)) / max(len(columns) - 1, 1)
    if gap < 20:
        raise ValueError(f"the boxes are too wide for {width} pixels. Received: {list(boxes)}")
    centers = {c: EDGE + sum(widths[:i]) + i * gap + widths[i] / 2 for i, c in enumerate(columns)}
    placed = {}
    for name, box in boxes.items():
        low, share = math.floor(box[1]), box[1] - math.floor(box[1])
        x = centers[low] + (share * (centers[low + 1] - centers[low]) if share else 0)
        y = MARGIN + ROW * box[2]
        placed[name] = Box(name, box[0], box[3] if len(box) > 3 else "", x, y, *sizes[name])
    return placed


def draw_box(box: Box) -> list[str]:
    """The elements of a box."""
    fill, outline, width, dashes, radius = KINDS[box.kind]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    parts = [
        f'<rect x="{box.x - box.width / 2:.1f}" y="{box.y - box.height / 2:.1f}" '
        f'width="{box.width:.1f}" height="{box.height:.1f}" rx="{radius}" fill="{fill}" '
        f'stroke="{outline}" stroke-width="{width}"{dashed}/>'
    ]
    family = MONO if box.kind in ATTRIBUTES else SANS
    y = box.y + 4 - (8 if box.note else 0)
    parts.append(text(box.name, box.x, y, family=family))
    if box.note:
        parts.append(text(box.note, box.x, y + 16))
    return parts


def text(words: str, x: float, y: float, *, family: str = SANS, more: str = "") -> str:
    """A line of text around x."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-family="{escape(family)}" font-size="12" '
        f'text-anchor="middle" fill="#24292f"{more}>{escape(words)}</text>'
    )


def split_port(word: str) -> tuple[str, str]:
    """``"box.top"`` as its name and its side, the side empty if there is none."""
    name, _, side = word.rpartition(".")
    return (name, side) if side in SIDES else (word, "")


def facing(first: Box, second: Box) -> tuple[str, str]:
    """The sides of two boxes that face each other."""
    if abs(first.x - second.x) < min(first.width, second.width) / 2:
        return ("bottom", "top") if first.y < second.y else ("top", "bottom")
    return ("right", "left") if first.x < second.x else ("left", "right")


def draw_arrow(kind: str, start: str, end: str, label: str, boxes: Mapping[str, Box]) -> list[str]:
    """A curve that leaves and meets the boxes at right angles, its head, its bars, its text."""
    (first, out), (second, into) = split_port(start), split_port(end)
    sides = facing(boxes[first], boxes[second])
    out, into = out or sides[0], into or sides[1]
    tip = boxes[second].port(into)
    dx, dy = SIDES[into]
    p0, p3 = boxes[first].port(out), (tip[0] + 7 * dx, tip[1] + 7 * dy)
    p1 = reach(p0, p3, SIDES[out])
    p2 = reach(p3, p0, SIDES[into])
    colour, dashes = ARROWS[kind]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (p1, p2, p3))
    head = [tip, (p3[0] + 4 * dy, p3[1] + 4 * dx), (p3[0] - 4 * dy, p3[1] - 4 * dx)]
    parts = [
        f'<path d="M{p0[0]:.1f},{p0[1]:.1f} C{points}" fill="none" stroke="{colour}" '
        f'stroke-width="1.5"{dashed}/>',
        f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in head)}" fill="{colour}"/>',
    ]
    middle = tuple((p0[i] + 3 * p1[i] + 3 * p2[i] + p3[i]) / 8 for i in range(2))
    along = tuple(p3[i] + p2[i] - p1[i] - p0[i] for i in range(2))
    if kind == "==>":
        parts += draw_bars(middle, along, colour)
    if label:
        ux, uy = along[0] / math.hypot(*along), along[1] / math.hypot(*along)
        # Beside the curve: above it where it runs flat, on its right where it runs straight down.
        side = 1 if (ux > 0 or (ux == 0 and uy > 0)) else -1
        away = 15 if kind == "==>" else 12
        half = 3.5 * len(label)
        x = middle[0] + side * uy * (away + half)
        y = middle[1] - side * ux * away
        parts.append(text(label, x, y + 4))
    return parts


def reach(near: Point, far: Point, side: Point) -> Point:
    """The curve's control point beside its end ``near``, which it leaves through ``side``."""
    distance = abs((far[0] - near[0]) * side[0] + (far[1] - near[1]) * side[1])
    return near[0] + 0.55 * distance * side[0], near[1] + 0.55 * distance * side[1]


def draw_bars(middle: Point, along: Point, colour: str) -> list[str]:
    """The two bars across an arrow through which no gradient comes back."""
    length = math.hypot(*along)
    ux, uy = along[0] / length, along[1] / length
    lines = []
    for shift in (-2.5, 2.5):
        x, y = middle[0] + shift * ux, middle[1] + shift * uy
        lines.append(
            f'<line x1="{x + 6 * uy:.1f}" y1="{y - 6 * ux:.1f}" x2="{x - 6 * uy:.1f}" '
            f'y2="{y + 6 * ux:.1f}" stroke="{colour}" stroke-width="2"/>'
        )
    return lines


def draw(figure: Mapping[str, Any]) -> str:
    """The SVG of a figure."""
    boxes, width = place(figure), figure.get("width", WIDTH)
    height = round(max(box.y for box in boxes.values())) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(figure['title'])}</title>",
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="#ffffff" '
        'stroke="#d0d7de"/>',
    ]
    for line in figure["arrows"]:
        path, _, label = line.partition(" : ")
        words = re.split(r" (->|-->|==>|\.\.>) ", path)
        for start, kind, end in zip(words[:-2:2], words[1::2], words[2::2], strict=True):
            parts += draw_arrow(kind, start, end, label, boxes)
    for box in boxes.values():
        parts += draw_box(box)
    return "\n".join([*parts, "</svg>"]) + "\n"


def figures() -> dict[str, Any]:
    """The table of ``figures.toml``, by method."""
    return tomllib.loads((FOLDER / "figures.toml").read_text(encoding="utf-8"))


def main() -> None:
    """Writes every figure beside this file."""
    for name, figure in figures().items():
        (FOLDER / f"{name}.svg").write_text(draw(figure), encoding="utf-8")


if __name__ == "__main__":
    main()
