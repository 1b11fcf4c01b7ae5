"""One text and one range a name; only the default is the method's own."""

import dataclasses
import inspect

import pytest

from tfcontrast.config import MethodConfig, check_options
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS, shared_options

SHARED = {
    name: make
    for name, make in inspect.getmembers(shared_options, inspect.isfunction)
    if make.__module__ == shared_options.__name__
}
# The default that a method may have, and the nearest value that nobody may.
EDGES = {
    "ema_decay": (1.0, 1.1),
    "ema_schedule": ("cosine", "linear"),
    "kmeans_iterations": (1, 0),
    "loss_scale": (0.1, -0.1),
    "num_local_views": (64, 65),
    "num_prototypes": (2, 1),
    "num_proj_layers": (16, 17),
    "pred_hidden_dim": (1, 0),
    "proj_head_mode": ("none", "deep"),
    "proj_hidden_dim": (0, -1),
    "proj_out_dim": (1, 0),
    "queue_size": (0, -1),
    "temperature": (1e-4, 1e-5),
}


def config_with(name, default):
    """A config class whose only option is the shared one."""
    field = (name, type(default), SHARED[name](default))
    return dataclasses.make_dataclass(
        "OneConfig", [field], bases=(MethodConfig,), frozen=True, kw_only=True
    )


def test_every_shared_option_has_its_edges_here():
    assert SHARED.keys() == EDGES.keys()


@pytest.mark.parametrize("name", SHARED)
def test_the_default_is_the_methods_and_the_rest_is_not(name):
    default, other = EDGES[name]
    first, second = SHARED[name](default), SHARED[name](other)
    assert (first.default, second.default) == (default, other)
    assert first.metadata == second.metadata
    assert first.metadata["help"].endswith(".")


@pytest.mark.parametrize("name", SHARED)
def test_the_range(name):
    accepted, refused = EDGES[name]
    cls = config_with(name, accepted)
    check_options(cls())
    with pytest.raises(
        UserError, match=rf"^--{name} must be (at least|at most|one of) .*Received: '?{refused}"
    ):
        check_options(cls(**{name: refused}))


@pytest.mark.parametrize("name", SHARED)
def test_methods_take_the_declaration_from_here(name):
    declared = SHARED[name](EDGES[name][0]).metadata
    for cls in METHODS.values():
        for field in dataclasses.fields(cls.Config):
            if field.name == name:
                assert field.metadata == declared, cls
