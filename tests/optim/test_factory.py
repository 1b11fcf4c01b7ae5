import keras
import numpy as np
import pytest

from tfcontrast.optim import OPTIMIZERS, WarmupSchedule, make_optimizer, variable_roles


def small_model():
    model = keras.Sequential(
        [keras.layers.Dense(3, name="a"), keras.layers.BatchNormalization(name="b")], name="m"
    )
    model.build((None, 4))
    return model


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_name_makes_its_class_built_on_the_model(name):
    model = small_model()
    schedule = WarmupSchedule(0.1, total_steps=4)
    optimizer = make_optimizer(name, learning_rate=schedule, weight_decay=0.1, model=model)
    assert type(optimizer) is OPTIMIZERS[name]
    assert optimizer.built
    assert optimizer.weight_decay is None
    assert optimizer.decay == 0.1
    own = {"lars": ("bias", "norm"), "lamb": ("bias", "norm")}.get(name, ())
    assert optimizer.exclude_from_decay == own
    decayed = [optimizer.decays(v.value) for v in model.trainable_variables]
    assert decayed == [True] + [not own] * 3


def test_options_reach_the_optimizer():
    optimizer = make_optimizer(
        "lars", learning_rate=1, lars_variant="solo", momentum=0.5, nesterov=None, clip_norm=2.0,
        exclude_from_decay=("norm",), exclude_from_adaptation=(),
    )  # fmt: skip
    config = optimizer.get_config()
    expected = {
        "variant": "solo", "momentum": 0.5, "nesterov": False, "trust_coefficient": 0.02,
        "clip_norm": 2.0,
        "exclude_from_decay": ["norm"], "exclude_from_adaptation": [], "learning_rate": 1.0,
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    assert not optimizer.built


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_set_of_settings_serves_every_optimizer(name):
    settings = {
        "momentum": 0.5,
        "nesterov": True,
        "lars_variant": "byol",
        "trust_coefficient": 0.01,
    }
    config = make_optimizer(name, learning_rate=0.1, **settings).get_config()
    has = {"lars": ["momentum", "nesterov", "trust_coefficient"], "sgd": ["momentum", "nesterov"]}
    for option in has.get(name, ["momentum"] if name == "rmsprop" else []):
        assert config[option] == settings[option]
    if name == "lars":
        assert config["variant"] == "byol"


def test_larc_leaves_nothing_alone():
    optimizer = make_optimizer("lars", learning_rate=0.1, lars_variant="larc")
    assert optimizer.exclude_from_decay == optimizer.exclude_from_adaptation == ()


def test_given_roles_replace_the_models_own():
    model = small_model()
    roles = variable_roles(model, {"head": [model.layers[0]]})
    optimizer = make_optimizer(
        "sgd",
        learning_rate=0.1,
        weight_decay=1.0,
        exclude_from_decay=("head",),
        model=model,
        roles=roles,
    )
    decayed = [optimizer.decays(v.value) for v in model.trainable_variables]
    np.testing.assert_array_equal(decayed, [False, False, True, True])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adagrad", {}, "optimizer must be one of lars, sgd, .* Received: 'adagrad'"),
        ("sgd", {"classic_momentum": True}, "Received: classic_momentum"),
        ("adam", {"rho": 0.9}, "The optimizer adam has the options .* Received: rho"),
        ("adamw", {"exclude_from_adaptation": ()}, "option of lars and lamb"),
    ],
)
def test_wrong_names_and_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(name, learning_rate=0.1, **options)
