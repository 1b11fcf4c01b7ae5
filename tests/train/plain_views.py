"""Views without XLA, traced once in a process; for the tests' processes and those they start.

Compiling them takes seconds for every call of ``fit``, tracing them takes longer than the few steps
of these runs.
"""

from tfcontrast import data as data_lib
from tfcontrast.data import train_dataset, view_maker

_MADE = {}


def shared_maker(source, recipes, *, seed, host=True):
    """In place of ``view_maker``."""
    key = (source.image_shape is None, tuple(recipes), seed, host)
    if key not in _MADE:
        _MADE[key] = view_maker(source, recipes, seed=seed, host=host, jit_compile=False)
    return _MADE[key]


def plain_dataset(source, recipes, *, seed, views=None, **options):
    """In place of ``train_dataset``."""
    views = views or shared_maker(source, recipes, seed=seed)
    return train_dataset(source, recipes, seed=seed, views=views, **options)


def use(setattr=setattr):
    """Puts them in place, for good or by ``monkeypatch.setattr``."""
    setattr(data_lib, "train_dataset", plain_dataset)
    setattr(data_lib, "view_maker", shared_maker)
