"""The tables that the pages show are those of the records, and the recipes those that were run."""

import importlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
IMAGES = 49_000  # CIFAR-10's training images without the 2 % that the recipes hold out


@pytest.fixture
def script(monkeypatch):
    """A script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def shown(page, start, end):
    """What a page has between two markers."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.split(start)[1].split(end)[0].strip()


def test_the_readmes_table_is_that_of_the_records(script):
    methods = script("methods_on_cifar10")
    assert shown("README.md", methods.START, methods.END) == methods.table(methods.read_records())


def test_the_table_of_speeds_is_that_of_the_records(script):
    speeds = script("run_all")
    assert shown("benchmarks/README.md", speeds.START, speeds.END) == speeds.table()


def test_recipes_are_as_they_were_measured(script):
    methods = script("methods_on_cifar10")
    records = methods.read_records()
    assert len({record["method"] for record in records}) == 13
    by_recipe = {}
    for record in records:
        options = methods.options_of(ROOT / record["recipe"])
        per_epoch = IMAGES // int(options["train_batch_size"])
        assert record["steps"] == int(options["train_epochs"]) * per_epoch, record["recipe"]
        assert record["encoder"] == methods.encoder_of(ROOT / record["recipe"], record["seed"])
        by_recipe.setdefault(record["recipe"], []).append(f"{100 * record['knn']:.1f} %")
    for recipe, figures in by_recipe.items():
        ours = (ROOT / recipe).read_text(encoding="utf-8").splitlines()[3]
        assert ours.startswith(f"# Ours: {' and '.join(figures)} kNN top-1"), recipe
