import doctest
import importlib
import pkgutil

import pytest

import tfcontrast.evaluate

MODULES = [module.name for module in pkgutil.iter_modules(tfcontrast.evaluate.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_the_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(f"tfcontrast.evaluate.{name}"))
    assert result.failed == 0
    assert result.attempted > 0
