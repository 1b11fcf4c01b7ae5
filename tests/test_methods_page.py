"""docs/methods.md has every method, says of it what the code says, and its figures are redrawn."""

import functools
import html
import importlib.util
import itertools
import math
import pathlib
import re

import pytest

from tfcontrast.methods import METHODS

ROOT = pathlib.Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
COLLAPSED, OPTIMIZER = "loss, and its collapsed value", "optimizer"


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DRAW = load("draw", FIGURES / "draw.py")
FIXTURES = load("methods_fixtures", ROOT / "tests" / "methods" / "conftest.py")


def sections():
    """The text of each method's section, by the name that --method has there."""
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    named = [(re.search(r"\A.*\n\n`--method=(\w+)`", part), part) for part in parts]
    return [(match[1], part) for match, part in named if match]


def table(marker):
    """The rows of the table after ``<!-- marker -->``, keyed by their first cell's code."""
    lines = PAGE.split(f"<!-- {marker} -->\n")[1].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]
    return [(re.search(r"`(\w+)`", row[cells[0][0]])[1], row) for row in rows]


ROWS = table("comparison")


@functools.cache
def small(name):
    """The method at toy size, without variables of the networks."""
    config = METHODS[name].Config(**FIXTURES.SMALL.get(name, {}))
    backbone, classes = FIXTURES.TinyBackbone(), FIXTURES.CLASSES
    return METHODS[name](backbone, config, plan=FIXTURES.PLAN, num_classes=classes)


def test_every_method_has_one_section_one_row_and_one_figure():
    assert sorted(name for name, _ in sections()) == sorted(METHODS)
    assert sorted(name for name, _ in ROWS) == sorted(METHODS)
    assert sorted(DRAW.figures()) == sorted(METHODS)
    assert sorted(path.stem for path in FIGURES.glob("*.svg")) == sorted(METHODS)


@pytest.mark.parametrize(("name", "section"), sections(), ids=[name for name, _ in sections()])
def test_a_section_has_its_figure_loss_state_and_links(name, section):
    assert re.search(rf"^!\[\S.*\]\(figures/{name}\.svg\)$", section, re.MULTILINE)
    assert section.count("```text\n") == 1
    for part in ("Keeps", "Choose it", "What goes wrong.", "Flags."):
        assert section.count(f"\n**{part}") == 1, part
    assert f"](../tfcontrast/methods/{name}.py)" in section
    assert "](../tfcontrast/losses/" in section
    recipes = {*(ROOT / "flags").glob(f"*/{name}.flags"), *(ROOT / "flags").glob(f"*/{name}_cpu.*")}
    linked = set(re.findall(r"\]\(\.\./(flags/\S+)\)", section))
    assert {path.relative_to(ROOT).as_posix() for path in recipes} <= linked


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_a_row_says_what_the_code_says(name, row):
    kind = METHODS[name]
    assert int(re.match(r"\d+", row["views"])[0]) == kind.num_views
    assert row["labels"] == ("yes" if kind.needs_labels else "no")
    defaults = kind.Config.DEFAULTS["pretrain"]
    assert row[OPTIMIZER].lower().startswith(defaults.get("optimizer", "lars"))
    local = getattr(kind.Config(), "num_local_views", 0)
    assert re.findall(r"\+ (\d+)", row["views"]) == ([str(local)] if local else [])


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_a_collapsed_value_is_the_one_that_training_warns_of(name, row):
    method, plan = small(name), FIXTURES.PLAN
    known = method.stuck_loss(plan.batch_size)
    printed = re.findall(r"`([^`]+)`", row[COLLAPSED])
    assert len(printed) == (known is not None)
    if known is None:
        return
    config = method.config
    names = {"B": plan.batch_size, "N": plan.num_examples, "d": getattr(config, "proj_out_dim", 0)}
    sizes = [getattr(config, size, 0) for size in ("num_prototypes", "queue_size")]
    names["K"] = next((size for size in sizes if size), FIXTURES.CLASSES)
    formula = re.sub(r"(\w) (?=\w)", r"\1 * ", printed[0])
    value = eval(formula, {"log": math.log, **names, "t": getattr(config, "temperature", 0)})
    assert value == pytest.approx(known)


def test_the_metrics_are_those_of_the_methods():
    metrics = {name for kind in METHODS.values() for name in kind.metric_names}
    assert {name for name, _ in table("metrics")} == metrics
    for metric, row in table("metrics"):
        having = {name for name, kind in METHODS.items() if metric in kind.metric_names}
        printed = set(re.findall(r"`(\w+)`", row["methods"]))
        assert printed == having or (row["methods"] == "all" and having == METHODS.keys()), metric


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_names_in_a_figure_are_attributes(name):
    method = small(name)
    names = DRAW.attributes_of(DRAW.figures()[name])
    assert "backbone" in names
    assert [attribute for attribute in names if not hasattr(method, attribute)] == []


@pytest.mark.parametrize("name", sorted(DRAW.figures()))
def test_drawing_again_gives_the_same_bytes(name):
    assert DRAW.draw(DRAW.figures()[name]).encode() == (FIGURES / f"{name}.svg").read_bytes()


@pytest.mark.parametrize("name", sorted(DRAW.figures()))
def test_boxes_lie_within_the_figure_and_apart(name):
    figure = DRAW.figures()[name]
    boxes, width = DRAW.place(figure).values(), figure.get("width", DRAW.WIDTH)
    for box in boxes:
        assert box.width / 2 <= box.x <= width - box.width / 2
    for a, b in itertools.combinations(boxes, 2):
        apart = abs(a.x - b.x) - (a.width + b.width) / 2, abs(a.y - b.y) - (a.height + b.height) / 2
        assert max(apart) > 4, (a.name, b.name)


@pytest.mark.parametrize("name", sorted(DRAW.figures()))
def test_texts_lie_within_the_figure(name):
    figure = DRAW.figures()[name]
    texts = re.findall(r'<text x="([\d.]+)" .*>(.*)</text>', DRAW.draw(figure))
    assert len(texts) >= len(figure["boxes"])
    for x, words in texts:
        half = 3.5 * len(html.unescape(words))
        assert half < float(x) < figure.get("width", DRAW.WIDTH) - half, words
