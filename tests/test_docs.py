"""Every page is true in what can be checked: links, flags, commands, files and names exist."""

import importlib
import pathlib
import re
import shlex

import pytest
from absl import flags as absl_flags

from tfcontrast import flags

ROOT = pathlib.Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "flags" / "README.md", *DOCS]

# Flags of other programs that the pages name.
OTHERS = {"signal": "sbatch", "requeue": "sbatch", "logdir": "tensorboard", "foreground": "timeout"}


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def text_of(page):
    return page.read_text(encoding="utf-8")


def anchors_of(page):
    """The anchors that GitHub gives to a page's headings."""
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    headings = re.findall(r"^#+ +(.*)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings]


def commands_of(page):
    """The flags of every command of this program in the page's fenced blocks."""
    blocks = re.findall(r"^```(?:bash|console|sh)?\n(.*?)^```", text_of(page), re.M | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    runs = [line.split("-m tfcontrast.run", 1)[1] for line in lines if "-m tfcontrast.run" in line]
    return [shlex.split(run.split("; do")[0], comments=True) for run in runs]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if target.startswith("http"):
            continue
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors_of(there)):
            missing.append(target)
    assert not missing


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_every_flag_exists(page):
    known = absl_flags.FlagValues()
    flags.define(known)
    named = set(re.findall(r"(?<![\w-])--([a-z]\w*)", text_of(page)))
    own = {*known, *(f"no{name}" for name in known if known[name].boolean), "help", "flagfile"}
    assert named - own - OTHERS.keys() == set()


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_every_command_parses_or_only_misses_its_checkpoint(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands_of(page):
        if any(word.startswith("--checkpoint=") for word in command):
            with pytest.raises(flags.UserError, match=r"--checkpoint: \S+ does not exist"):
                flags.parse(["run", *command])
        else:
            flags.parse(["run", *command])


@pytest.mark.parametrize("page", DOCS, ids=name_of)
def test_every_file_and_name_exists(page):
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL))
    folders = "|".join(path.name for path in ROOT.iterdir() if path.is_dir() and path.suffix == "")
    paths = [span for span in spans if re.fullmatch(rf"(?:{folders})/[\w./-]*", span)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    for span in spans:
        for name in re.findall(r"(?<![\w./-])tfcontrast(?:\.[A-Za-z_]\w*)+", span):
            module, _, attribute = name.rpartition(".")
            found = importlib.import_module(module)
            if not hasattr(found, attribute):
                importlib.import_module(name)


def test_the_pages_are_not_empty_of_what_is_checked():
    text = "".join(text_of(page) for page in DOCS)
    assert len(re.findall(r"(?<![\w-])--[a-z]\w*", text)) > 10
    assert sum(len(commands_of(page)) for page in DOCS) > 1
