import doctest
import importlib
import pkgutil

import pytest

import tfcontrast.losses

MODULES = [module.name for module in pkgutil.iter_modules(tfcontrast.losses.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_the_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(f"tfcontrast.losses.{name}"))
    assert result.failed == 0
    assert result.attempted > 0 or name == "arguments"


def test_every_public_loss_shows_an_example():
    for name in tfcontrast.losses.__all__:
        assert ">>>" in getattr(tfcontrast.losses, name).__doc__
