"""A batch that passes the networks in parts: the undivided batch's numbers."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import METHODS, Method, Plan
from tfcontrast.methods import micro_batch as room
from tfcontrast.models import BatchNorm, VisionTransformer
from tfcontrast.train import checkpoints, state

ACCEPTED = sorted(name for name, cls in METHODS.items() if cls.takes_micro_batches)
EAGER = {"run_eagerly": True}
PLAN = Plan(batch_size=16, num_examples=16, steps_per_epoch=4, total_steps=40, seed=3)


class Exact(keras.Model):
    """A convolution and layer norm: every image by itself."""

    feature_dim = 6
    num_groups = 4

    def __init__(self, dtype="float32"):
        super().__init__(name="backbone", dtype=dtype)
        self.conv = keras.layers.Conv2D(6, 3, 2, name="conv", dtype=dtype)
        self.norm = keras.layers.LayerNormalization(name="norm", dtype=dtype)

    def call(self, images, training=False):
        return tf.reduce_mean(tf.nn.relu(self.norm(self.conv(images))), [1, 2])

    def get_config(self):
        return {"dtype": self.dtype_policy.name}

    def freeze(self, last_group):
        self.trainable = last_group < 4


@pytest.fixture
def make(make_method):
    """A method with parts of some size; ``frozen`` puts its batch norms into inference mode."""

    def build(name, size, *, frozen=False, **options):
        plan = options.pop("plan", PLAN)
        method = make_method(
            name,
            plan=dataclasses.replace(plan, micro_batch=size),
            classes=4 if name == "supervised" else 0,
            **options,
        )
        if frozen:
            for layer in method._flatten_layers():
                if isinstance(layer, BatchNorm):
                    layer.trainable = False
        return method

    return build


@pytest.fixture
def step(batches):
    """A function of a method: what ``step_gradients`` gives for the batch, not traced."""

    def run(method, size=16):
        batch = next(iter(batches(method.num_views, size=size)))
        return room.step_gradients(method, batch["views"], batch)

    return run


@pytest.fixture
def float64():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(policy)


def values(method):
    return {name: v.copy() for name, v in state.values(state.full_state(method)).items()}


def assert_close(first, second, rtol):
    """Up to this share of each tensor's largest entry."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        atol = rtol * np.abs(value).max(initial=1e-3)
        np.testing.assert_allclose(value, second[name], 0, atol, err_msg=name)


def assert_same(first, second):
    assert_close(first, second, 0)


@pytest.mark.parametrize("name", ACCEPTED)
def test_loss_and_gradients_are_the_undivided_batchs(make, step, float64, name):
    options = {"backbone": Exact, "dtype": "float64", "frozen": True}
    found = []
    for size in (0, 16, 4, 2) if name == "simclr" else (0, 4):
        method = make(name, size, **options)
        outputs, losses, gradients = step(method)
        assert all(gradient is not None for gradient in gradients)
        arrays = {
            v.path: g.numpy() for v, g in zip(method.encoder_variables, gradients, strict=True)
        }
        arrays |= {f"outputs/{key}": np.asarray(value) for key, value in outputs.items()}
        found.append(arrays | {f"losses/{key}": np.asarray(v) for key, v in losses.items()})
    assert any(np.any(value) for key, value in found[0].items() if key.endswith("conv/kernel"))
    for parts in found[1:]:
        # The classifier's layer is float32 under every policy.
        assert_close(found[0], parts, 1e-5 if name == "supervised" else 1e-10)


def test_graph_eager_and_xla_take_the_undivided_batchs_steps(make, fit):
    def run(size, compiled):
        method = make("simclr", size, backbone=Exact, compile=compiled, frozen=True)
        logs, found = fit(method, 2), values(method)
        return logs, {k: value for k, value in found.items() if not k.startswith("metrics/")}

    whole_logs, whole = run(0, {})
    for compiled in ({}, EAGER, {"jit_compile": True}):
        logs, parts = run(4, compiled)
        for name in ("loss", "feature_std"):  # the others count which of two near rows is nearer
            assert logs[name] == pytest.approx(whole_logs[name], rel=1e-5)
        assert_close(whole, parts, 1e-5)


@pytest.mark.parametrize(("name", "numbers"), [("simclr", (2, 4)), ("moco_v3", (2,))])
def test_batch_norm_sees_the_same_parts_on_any_number_of_replicas(
    make, fit, strategy_of, name, numbers
):
    one = make(name, 8, optimizer="sgd")
    expected, first = fit(one, 2), values(one)
    for replicas in numbers:
        many = make(name, 8 // replicas, optimizer="sgd", strategy=strategy_of(replicas))
        assert fit(many, 2) == pytest.approx(expected, rel=1e-5)
        second = values(many)
        for slots, rtol in ((False, 1e-5), (True, 3e-5)):  # betas' slots are sums that cancel
            names = [name for name in first if name.startswith("optimizer/") == slots]
            assert_close({n: first[n] for n in names}, {n: second[n] for n in names}, rtol)
        for variable in state.full_state(many).values():
            own, *others = getattr(variable.value, "values", (variable.value,))
            for other in others:
                np.testing.assert_array_equal(own, other, err_msg=variable.path)


def test_batch_norm_takes_each_part_by_itself_and_moves_once_for_each(make, step, batches):
    method = make("simclr", 4)
    before = values(method)
    other = make("simclr", 0)
    _, _, gradients = step(method)
    views = next(iter(batches(2)))["views"]
    # The undivided method, shown the same parts one after another, is where the statistics go.
    embeddings = [
        other(tuple(view[part::4] for view in views), training=True)["embeddings"]
        for part in range(4)
    ]
    expected, after = values(other), values(method)
    moved = [name for name in before if np.any(before[name] != after[name])]
    assert sorted({name.rsplit("/")[-1] for name in moved}) == ["moving_mean", "moving_variance"]
    assert_close(after, expected, 1e-6)
    # And the gradient is that of the loss of the parts' embeddings.
    fresh = make("simclr", 0)
    with tf.GradientTape() as tape:
        parts = [
            fresh(tuple(v[p::4] for v in views), training=True)["embeddings"] for p in range(4)
        ]
        rows = [tf.split(part, 2) for part in parts]
        joined = [tf.reshape(tf.stack([r[i] for r in rows], 1), [16, -1]) for i in (0, 1)]
        loss = fresh.compute_losses(
            {"embeddings": tf.concat(joined, 0), "features": tf.ones([32, 6])}, {}
        )["loss"]
    np.testing.assert_allclose(tf.stack(embeddings), tf.stack(parts), rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(gradients, tape.gradient(loss, fresh.encoder_variables), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_the_first_pass_leaves_no_trace(make, step, monkeypatch):
    method = make("simclr", 4)
    before = values(method)

    class Enough(Exception):
        pass

    def compute_losses(outputs, batch):
        raise Enough

    monkeypatch.setattr(method, "compute_losses", compute_losses)
    with pytest.raises(Enough):
        step(method)
    assert_same(before, values(method))


def test_both_passes_drop_the_branches_of_the_undivided_batch(make, step, float64):
    def backbone(dtype):
        return VisionTransformer(
            width=8, depth=2, num_heads=2, patch_size=4, image_size=8, drop_path_rate=0.8,
            dtype=dtype, name="backbone",
        )  # fmt: skip

    found = []
    for name, size in (("simclr", 0), ("simclr", 4), ("moco_v3", 0), ("moco_v3", 2)):
        method = make(name, size, backbone=backbone, dtype="float64", frozen=True)
        outputs, losses, gradients = step(method)
        named = zip(method.encoder_variables, gradients, strict=True)
        found.append(
            {v.path: np.asarray(g) for v, g in named}
            | {"features": outputs["features"].numpy(), "loss": losses["loss"].numpy()}
        )
    assert_close(found[0], found[1], 1e-10)
    assert_close(found[2], found[3], 1e-10)
    features = found[0]["features"]
    assert len(np.unique(features[:, 0].round(9))) > 16


def test_a_run_goes_on_from_its_state(make, fit):
    method = make("nnclr", 4)
    fit(method, 1)
    middle = values(method)
    logs, end = fit(method, 1), values(method)
    checkpoints.restore(state.full_state(method), middle, source="memory", whole=True)
    assert fit(method, 1) == logs
    assert_same(end, values(method))


class Strange(Method):
    """Its loss has a weight of its own, one output is of no use, and one weight of none."""

    metric_names = ("loss",)
    num_views = 1
    takes_micro_batches = True

    def __init__(self, backbone, **options):
        super().__init__(backbone, **options)
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")
        self.unused = self.add_weight(shape=(), initializer="ones", name="unused")

    def call(self, views, training=False):
        features = self.backbone(views[0], training=training)
        return {"features": features, "rows": tf.range(features.shape[0])}

    def compute_losses(self, outputs, batch):
        return {"loss": self.scale * tf.reduce_sum(outputs["features"] ** 2)}


def strange(size):
    keras.utils.set_random_seed(0)
    method = Strange(Exact(), plan=dataclasses.replace(PLAN, micro_batch=size))
    method.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False)
    method.prepare(8)
    return method


@pytest.mark.parametrize("traced", [False, True])
def test_weights_of_the_loss_and_weights_without_gradient(batches, traced):
    batch = next(iter(batches(1)))

    def gradients(method):
        found = room.step_gradients(method, batch["views"], batch)[2]
        return {
            v.path: g for v, g in zip(method.encoder_variables, found, strict=True) if g is not None
        }

    run = [tf.function(gradients) if traced else gradients for _ in range(2)]
    whole, parts = (function(strange(size)) for function, size in zip(run, (0, 4), strict=True))
    assert len(whole) == 5
    for name, value in whole.items():
        np.testing.assert_allclose(value, parts[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert whole.keys() == parts.keys()


def test_what_is_refused(make, step, monkeypatch):
    with pytest.raises(ValueError, match=r"must divide a replica's 16 images. Received: 3"):
        step(make("simclr", 3))
    with pytest.raises(ValueError, match=r"must divide a replica's 16 images. Received: -4"):
        step(make("simclr", -4))
    with pytest.raises(ValueError, match=r"is not for every method. Received: moco"):
        step(make("moco", 4))
    method = strange(4)
    monkeypatch.setattr(type(method), "call", lambda self, views, training: {"z": tf.ones([3, 2])})
    with pytest.raises(ValueError, match=r"a row for each of 4 images .* Received: shape .3, 2."):
        step(method)
    monkeypatch.setattr(type(method), "call", lambda self, views, training: {"z": tf.ones([])})
    with pytest.raises(ValueError, match=r"a row for each of 4 images .* Received: shape \(\)"):
        step(method)
