"""What every method of the table must keep."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import METHODS
from tfcontrast.models import ResNet
from tfcontrast.train import state

# In this order those with a probe are the first: pytest takes the tests of one place together.
EVERY = sorted(METHODS, key=lambda name: (name == "supervised", name))
# The least value of the loss; SupCon's: all 7 positives at one place, every other image far away;
# SimSiam's: cosines of 1. With a queue of 24 keys of the same 16 images, half of the images are in
# it twice, half once. NCE's: of 24 draws from 16 rows 1.5 are the image's own, at best h = 1 / 2.5.
BEST = {
    "densecl": np.log(6) / 2,
    "instdisc": np.log(2.5) + 1.5 * np.log(2.5 / 1.5),
    "moco": np.log(6) / 2,
    "moco_v3": 4 * np.log(1 + 15 * np.exp(-16 / 15)),  # the vertices of a simplex, temperature 1
    "simsiam": -1,
    "supcon": np.log(7),
}
# Where the first loss is low, since the first rows of a queue are random: the collapsed one counts.
QUEUES = ("densecl", "moco")
# What may be left of the way from the first loss to the best after 100 steps; the others: 0.4.
LEFT = {}
# Here the positive cannot be the only one at its place.
WITHOUT_SCORE = {
    "densecl": "the queue holds older keys of the same image",
    "moco": "the queue holds older keys of the same image",
    "supcon": "the other images of the class are at the same place",
}
WITHOUT_BRANCHES = {"densecl": "it needs a feature map, and refuses vision transformers"}
# What falls where the loss does not: DINO's holds the entropy of a teacher that moves.
FALLS = {"dino": "teacher_student_kl"}
# Where the graph is not the matter: a few steps are over sooner than a trace.
EAGER = {"run_eagerly": True}
WITH_PROBE = [name for name in EVERY if name != "supervised"]
# The tests of a method come together, so that what they share is made once and then let go.
of_every_method = pytest.mark.parametrize("name", EVERY, scope="module")


def weights(method):
    return {name: value.copy() for name, value in state.values(state.full_state(method)).items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def assert_close(first, second, *, rtol):
    """Equal up to this share of each tensor's largest entry, or of Adam's rate for the probe."""
    assert first.keys() == second.keys()
    for name in first:
        # Adam takes whole steps where a gradient cancels to rounding.
        least = 0.1 if name.startswith("probe") else 1e-3
        atol = rtol * np.abs(first[name]).max(initial=least)
        np.testing.assert_allclose(first[name], second[name], 0, atol, err_msg=name)


def record(method, fit, *steps):
    """Fits several times; the method, the logs, and the states from the start on."""
    states, logs = [weights(method)], []
    for count in steps:
        logs.append(fit(method, count))
        states.append(weights(method))
    return types.SimpleNamespace(method=method, states=states, logs=logs)


@pytest.fixture(scope="module")
def traced(make_method, fit, name):
    """A method of the module's options: twice two steps from its building on."""
    return record(make_method(name), fit, 2, 2)


@pytest.fixture(scope="module")
def eager(make_method, fit, name):
    """The same without a graph: three times one step."""
    return record(make_method(name, compile=EAGER), fit, 1, 1, 1)


@of_every_method
def test_two_steps_report_the_named_metrics_and_reach_every_variable(put_back, traced, name):
    method, (before, after, _), logs = traced.method, traced.states, traced.logs[0]
    put_back(method, after)
    assert method.metric_names[0] == "loss"
    probe = {"probe_loss", "probe_top1"} if method.probe is not None else set()
    assert logs.keys() == {*method.metric_names} | probe
    assert all(np.isfinite(value) for value in logs.values()), logs
    slots = {v.name: v.numpy() for v in method.optimizer.variables if "momentum" in v.name}
    assert len(slots) == len(method.encoder_variables)
    assert all(np.any(slot) for slot in slots.values()), "a variable without a gradient"
    moving = [name for name in before if name.startswith("backbone")]
    assert all(np.any(before[name] != after[name]) for name in moving)


@of_every_method
def test_a_seed_decides_everything_and_the_state_carries_on(
    make_method, fit, put_back, traced, name
):
    """So a method that was put back is one that was just built, as other tests rely on."""
    method, (start, middle, end) = traced.method, traced.states
    same, other = (make_method(name, seed=seed) for seed in (1, 2))
    assert_same(start, weights(same))
    assert any(np.any(start[name] != value) for name, value in weights(other).items())
    put_back(method, start)
    assert_same(weights(method), weights(same))
    for logs, later in zip(traced.logs, (middle, end), strict=True):
        assert fit(method, 2) == logs
        assert_same(weights(method), later)
    put_back(method, middle)
    assert fit(method, 2) == traced.logs[1]
    assert_same(weights(method), end)


@of_every_method
def test_eager_steps_equal_the_graphs(fit, put_back, traced, eager, name):
    """XLA's are compared in test_xla.py."""
    put_back(traced.method, traced.states[0])
    for _ in eager.logs:
        fit(traced.method, 1)
    assert_close(weights(traced.method), eager.states[-1], rtol=1e-4)


@of_every_method
def test_bfloat16_is_close_and_keeps_float32_state(make_method, fit, put_back, eager, name):
    half = make_method(name, dtype="mixed_bfloat16", compile=EAGER)
    # From the same clusters too, which the features of half precision would make otherwise.
    put_back(half, eager.states[0])
    expected, found = eager.logs[0], fit(half, 1)
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.02)
    assert found["loss"] != expected["loss"]
    kinds = {v.dtype for v in state.model_state(half).values()}
    assert kinds - {"int64"} == {"float32"}  # counters, indices and labels are whole numbers


@pytest.mark.parametrize("name", WITH_PROBE, scope="module")
def test_the_probe_learns_beside_and_never_moves_the_encoder(make_method, fit, eager, name):
    # Two steps: in the first the probe's weights are zero, and nothing could come through them.
    alone = record(make_method(name, classes=0, compile=EAGER), fit, 1, 1)
    assert "probe_loss" not in alone.logs[-1]
    for found, with_probe in zip(alone.states, eager.states, strict=False):
        for key, value in found.items():
            np.testing.assert_array_equal(value, with_probe[key], err_msg=key)
    for logs in eager.logs[1:]:
        assert logs["probe_loss"] < np.log(4)  # it starts at zero: the loss of ignorance
    assert np.any(eager.states[1]["probe/kernel"])
    method = eager.method
    trained = {id(v) for v in method.encoder_variables}
    assert not trained & {id(v) for v in method.probe.variables}


@pytest.mark.parametrize("name", ["simclr", "supcon"])
def test_in_float64_two_replicas_are_exact(make_method, fit, strategy_of, name):
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        one, two = (
            make_method(name, classes=0, dtype="float64", optimizer="lars", strategy=strategy)
            for strategy in (strategy_of(1), strategy_of(2))
        )
        fit(one, 5), fit(two, 5)
    finally:
        keras.config.set_dtype_policy(policy)
    expected, found = (state.model_state(method) for method in (one, two))
    assert_close(state.values(expected), state.values(found), rtol=1e-10)


@pytest.mark.slow
def test_a_residual_network_learns_the_same_on_two_replicas(make_method, fit, strategy_of):
    def backbone(dtype):
        return ResNet(
            depth=10, width_multiplier=0.1, stem="cifar_stride2", dtype=dtype, name="backbone"
        )

    one, many = (
        make_method(
            "simclr",
            backbone=backbone,
            optimizer="lars",
            strategy=strategy_of(replicas),
        )
        for replicas in (1, 2)
    )
    fit(one, 5), fit(many, 5)
    assert_close(weights(one), weights(many), rtol=2e-4)


@of_every_method
def test_sixteen_images_are_learned_by_heart(make_method, fit, name):
    method = make_method(name, optimizer=lambda: keras.optimizers.Adam(0.01))
    first = fit(method, 1)
    fit(method, 100)
    last = fit(method, 1)
    best, falls = BEST.get(name, 0), FALLS.get(name, "loss")
    start = method.stuck_loss(16) if name in QUEUES else first[falls]
    assert last[falls] - best < LEFT.get(name, 0.4) * (start - best)
    if name not in WITHOUT_SCORE:
        for score in {"train_top1", "contrastive_accuracy"} & last.keys():
            assert last[score] > 0.9 > first[score]


@of_every_method
def test_features_have_the_backbones_width_and_stay_in_inference_mode(put_back, traced, name):
    method, before = traced.method, traced.states[0]
    put_back(method, before)
    features = method.embed(tf.random.stateless_uniform([3, 8, 8, 3], [0, 1]))
    assert features.shape == (3, 6)
    assert features.dtype == tf.float32
    assert_same(weights(method), before)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in WITHOUT_BRANCHES])
def test_a_network_that_drops_branches_gets_the_steps_seed_and_its_slow_copy_none(
    make_method, batches, tiny_backbone, name
):
    seeds = {}

    class Dropping(tiny_backbone):
        needs_seed = True

        def call(self, images, training=False, seed=None, views=1):
            assert not training or images.shape[0] == 16 * views
            seeds.setdefault((self.name, training), []).append(seed)
            return super().call(images, training)

    method = make_method(name, backbone=Dropping, compile=EAGER)
    for step in (0, 1):
        seeds.clear()
        method.train_step(next(iter(batches(method.num_views))))
        found = [tuple(seed.numpy()) for seed in seeds.pop(("backbone", True))]
        assert found, "the network that learns takes a seed"
        assert {last for _, last in found} == {step}
        assert {first for first, _ in found} >= {method.plan.seed}
        assert not any(seed is not None for copies in seeds.values() for seed in copies)
