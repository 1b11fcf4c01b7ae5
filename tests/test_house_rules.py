"""The rules of CONTRIBUTING.md that no tool knows."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tfcontrast"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FILE_LINES, FUNCTION_LINES = 300, 60

# path in the repository -> why; keep it short.
LONG_FILES = {}
# path:function -> why.
LONG_FUNCTIONS = {}
# module -> why nothing of its own could be tested.
WITHOUT_TEST = {
    "tfcontrast/errors.py": "one exception class without a body",
}

LAYERS = {"run", "flags", "config", "distribute", "errors"} | {
    "train", "methods", "evaluate", "export", "data", "optim", "augment", "models", "losses",
}  # fmt: skip


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions_of(tree):
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def length_of(function):
    """Lines from ``def`` to the end, without the docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        docstring = function.body[0]
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


def imports_of(tree):
    """Full names of everything that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_every_module_has_its_test_file(module):
    if module.name == "__init__.py" or name_of(module) in WITHOUT_TEST:
        return
    inside = module.relative_to(PACKAGE)
    mirror = ROOT / "tests" / inside.parent / f"test_{inside.name}"
    assert mirror.exists(), f"{name_of(module)} needs {name_of(mirror)}"


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=name_of)
def test_files_and_functions_are_small(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES or name_of(path) in LONG_FILES, f"{name_of(path)}: {lines} lines"
    long = {
        f"{name_of(path)}:{function.name}": length_of(function)
        for function in functions_of(tree_of(path))
        if length_of(function) > FUNCTION_LINES
    }
    assert long.keys() <= LONG_FUNCTIONS.keys(), f"functions over {FUNCTION_LINES} lines: {long}"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_only_the_door_reads_flags(module):
    if module.parent == PACKAGE and module.name in ("flags.py", "run.py"):
        return
    found = [name for name in imports_of(tree_of(module)) if name.startswith("absl.flags")]
    assert not found, f"{name_of(module)} imports {found}; take keyword arguments instead"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_library_code_neither_prints_nor_asserts(module):
    tree = tree_of(module)
    if name_of(module) != "tfcontrast/run.py":
        calls = (n.func for n in ast.walk(tree) if isinstance(n, ast.Call))
        printed = [f.lineno for f in calls if isinstance(f, ast.Name) and f.id == "print"]
        assert not printed, f"{name_of(module)} prints in lines {printed}"
    asserted = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)]
    assert not asserted, f"{name_of(module)} asserts in lines {asserted}"


@pytest.mark.parametrize("path", [*MODULES, *TESTS], ids=name_of)
def test_nothing_is_left_for_later(path):
    if path == Path(__file__):
        return
    words = (
        "TODO",
        "FIXME",
        "XXX",
        "NotImplementedError",
        r"mark\.(?:skip|xfail)",
        r"pytest\.skip",
    )
    later = "|".join(words)
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [i for i, line in enumerate(lines, 1) if re.search(rf"\b(?:{later})", line)]
    assert not found, f"{name_of(path)} leaves something for later in lines {found}"


def test_the_top_level_is_the_layers_and_nothing_else():
    parts = {p.stem for p in PACKAGE.iterdir() if p.name not in ("__init__.py", "__pycache__")}
    assert parts <= LAYERS, f"not a layer of CONTRIBUTING.md: {sorted(parts - LAYERS)}"
    drawers = {"utils", "common", "core", "helpers", "misc"}
    found = [name_of(path) for path in MODULES if path.stem in drawers]
    assert not found, f"name them by what they hold: {found}"


def test_every_packages_door_is_a_docstring_and_imports():
    for path in PACKAGE.rglob("__init__.py"):
        allowed = (ast.ImportFrom, ast.Assign, ast.AnnAssign)
        first, *rest = tree_of(path).body
        assert isinstance(first, ast.Expr), f"{name_of(path)} starts with a docstring"
        strange = [node.lineno for node in rest if not isinstance(node, allowed)]
        assert not strange, f"{name_of(path)} does more than import in lines {strange}"


def test_the_lists_of_reasons_are_not_stale():
    functions = {
        f"{name_of(path)}:{function.name}": length_of(function)
        for path in [*MODULES, *TESTS]
        for function in functions_of(tree_of(path))
    }
    stale = [entry for entry in LONG_FUNCTIONS if functions.get(entry, 0) <= FUNCTION_LINES]
    paths = {name_of(path): path for path in [*MODULES, *TESTS]}
    for entry in LONG_FILES:
        path = paths.get(entry)
        if path is None or len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES:
            stale.append(entry)
    stale += [entry for entry in WITHOUT_TEST if entry not in paths]
    assert not stale, f"these need no exception any more: {stale}"
