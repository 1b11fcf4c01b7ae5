import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import distribute, losses
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS, InstDisc, InstDiscConfig, Plan
from tfcontrast.train import state

KINDS = ("nce", "sampled_softmax", "full_softmax")
NOISE = tf.constant([[4, 3, 2]] * 4, tf.int64)
OWN = {"index": tf.range(4, dtype=tf.int64)}


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def bank_of(method):
    return method.memory_bank.read().numpy().copy()


def kept(method):
    return float(tf.convert_to_tensor(state.model_state(method)["log_normalizer"].value))


@pytest.fixture
def golden(tiny_backbone, golden_views, monkeypatch):
    """A function of options: a method with the worked example's bank and negatives, its outputs."""
    z1, _, stored = golden_views

    def make(**options):
        config = InstDiscConfig(**{"proj_out_dim": 6, "temperature": 0.1, **options})
        method = InstDisc(tiny_backbone(), config, plan=Plan(num_examples=5))
        method.memory_bank.variables[0].assign(stored)
        monkeypatch.setattr(InstDisc, "draw_negatives", lambda *_: NOISE)
        return method, {"features": z1, "embeddings": z1, "step": tf.constant(0, tf.int64)}

    return make


def finish(method, outputs, batch, *, taken=True):
    """The losses, and what follows the update."""
    found = method.compute_losses(outputs, batch)
    method.after_update({**found, **outputs, "taken": tf.constant(taken)}, batch)
    return {name: float(value) for name, value in found.items()}


def test_nce_is_the_golden_value_and_its_normalizer_stays(golden):
    method, outputs = golden()
    assert kept(method) == 0
    found = finish(method, outputs, OWN)
    assert tuple(found) == InstDisc.metric_names
    assert found["log_normalizer"] == pytest.approx(math.log(14643.8023760), rel=1e-6)
    assert found["loss"] == pytest.approx(2.5981250403, rel=1e-6)
    assert kept(method) == pytest.approx(math.log(14643.8023760), rel=1e-6)
    other = {**outputs, "embeddings": -outputs["embeddings"], "step": tf.constant(1, tf.int64)}
    again = finish(method, other, OWN)
    assert again["log_normalizer"] == found["log_normalizer"]  # frozen
    assert kept(method) == pytest.approx(found["log_normalizer"])


def test_the_softmaxes_are_the_golden_value_and_the_losses(golden):
    method, outputs = golden(instance_loss="full_softmax")
    found = finish(method, outputs, OWN)
    assert found["loss"] == pytest.approx(1.5319710301, rel=1e-6)
    assert kept(method) == 0  # NCE's alone
    method, outputs = golden(instance_loss="sampled_softmax")
    rows = method.memory_bank.read()
    expected = losses.sampled_softmax(
        outputs["embeddings"], rows, OWN["index"], NOISE, temperature=0.1
    )
    assert finish(method, outputs, OWN)["loss"] == pytest.approx(float(expected), rel=1e-6)
    assert float(expected) < 1.53  # three rows and the own one, not all five


def test_a_golden_row_of_the_bank(golden):
    method, outputs = golden()
    before = bank_of(method)
    finish(method, outputs, OWN)
    row = [0.338099, 0.508002, -0.298318, -0.532418, 0.210639, 0.459120]
    np.testing.assert_allclose(bank_of(method)[0], row, atol=1e-6)
    np.testing.assert_array_equal(bank_of(method)[4], before[4])


@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0])
def test_the_bank_moves_by_its_rule_in_the_batchs_rows_only(golden, momentum):
    method, outputs = golden(bank_momentum=momentum)
    before = bank_of(method)
    batch = {"index": tf.constant([3, 0, 4, 1], tf.int64)}
    finish(method, outputs, batch)
    expected = before.copy().astype(np.float64)
    places = batch["index"].numpy()
    expected[places] = unit(
        momentum * before[places] + (1 - momentum) * unit(outputs["embeddings"])
    )
    np.testing.assert_allclose(bank_of(method), expected, atol=1e-6)
    np.testing.assert_array_equal(bank_of(method)[2], before[2])


def test_a_step_that_is_not_taken_leaves_no_trace(golden):
    method, outputs = golden()
    before = bank_of(method)
    finish(method, outputs, OWN, taken=False)
    np.testing.assert_array_equal(bank_of(method), before)
    assert kept(method) == 0
    bad = {**outputs, "embeddings": outputs["embeddings"] * float("nan")}
    finish(method, bad, OWN)
    np.testing.assert_array_equal(bank_of(method), before)
    assert kept(method) == 0
    assert finish(method, outputs, OWN)["loss"] == pytest.approx(2.5981250403, rel=1e-6)


def test_the_proximal_term_is_the_squared_move(golden):
    (plain, outputs), (near, _) = golden(), golden(proximal_weight=30.0)
    moved = unit(outputs["embeddings"]) - bank_of(plain)[:4]
    expected = 30 * np.mean(np.sum(moved**2, axis=1))
    difference = finish(near, outputs, OWN)["loss"] - finish(plain, outputs, OWN)["loss"]
    assert difference == pytest.approx(expected, rel=1e-5)


def test_metrics_are_what_they_say(golden):
    method, outputs = golden()
    v, rows = unit(outputs["embeddings"]), bank_of(method)[:4]
    found = finish(method, outputs, OWN)
    assert found["bank_similarity"] == pytest.approx(np.mean(np.sum(v * rows, 1)), rel=1e-5)
    hits = np.argmax(v @ rows.T, 1) == np.arange(4)
    assert found["contrastive_accuracy"] == np.mean(hits)
    assert 0 < np.mean(hits) < 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_reaches_the_embeddings_and_not_the_bank(golden, kind):
    method, outputs = golden(instance_loss=kind)
    z, rows = outputs["embeddings"], method.memory_bank.variables[0].value
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([z, rows])
        found = method.compute_losses(outputs, OWN)
    assert np.any(tape.gradient(found["loss"], z))
    assert tape.gradient(found["loss"], rows) is None
    for name in InstDisc.metric_names[1:]:
        assert tape.gradient(found[name], z) is None, name


def test_at_the_start_the_losses_are_those_of_random_rows(tiny_backbone):
    count, m = 4000, 512
    rng = np.random.default_rng(0)
    outputs = {
        "features": tf.ones([256, 6]),
        "embeddings": tf.constant(rng.normal(size=(256, 128)), tf.float32),
        "step": tf.constant(0, tf.int64),
    }
    batch = {"index": tf.range(256, dtype=tf.int64)}
    for kind, temperature, value in (
        ("full_softmax", 0.1, math.log(count) + 0.39),  # + 1 / (2 d t^2)
        ("sampled_softmax", 0.1, math.log(m + 1) + 0.39),
        ("nce", 1.0, math.log(m + 1) + 1),  # scores nearly alike
    ):
        config = InstDiscConfig(temperature=temperature, instance_loss=kind, num_negatives=m)
        method = InstDisc(tiny_backbone(), config, plan=Plan(num_examples=count))
        loss = float(method.compute_losses(outputs, batch)["loss"])
        assert loss == pytest.approx(value, abs=0.1), kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_stuck_loss_is_that_of_equal_rows(tiny_backbone, kind):
    config = InstDiscConfig(instance_loss=kind, num_negatives=7, proj_out_dim=6)
    method = InstDisc(tiny_backbone(), config, plan=Plan(num_examples=20))
    method.memory_bank.variables[0].assign(tf.ones([20, 6]) / 6**0.5)
    same = tf.ones([4, 6])
    outputs = {"features": same, "embeddings": same, "step": tf.constant(0, tf.int64)}
    if kind == "nce":
        assert method.stuck_loss(4) is None
    else:
        loss = float(method.compute_losses(outputs, OWN)["loss"])
        assert method.stuck_loss(4) == pytest.approx(loss, rel=1e-5)


@pytest.fixture
def drawing(tiny_backbone):
    def make(count=50, negatives=400, seed=0):
        config = InstDiscConfig(num_negatives=negatives)
        return InstDisc(tiny_backbone(), config, plan=Plan(num_examples=count, seed=seed))

    return make


def test_negatives_are_uniform_and_drawn_with_replacement(drawing):
    rows = drawing().draw_negatives(tf.constant(3, tf.int64), 100).numpy()
    assert (rows.shape, rows.min(), rows.max()) == ((100, 400), 0, 49)
    counts = np.bincount(rows.ravel(), minlength=50)
    expected = rows.size / 50
    assert np.sum((counts - expected) ** 2 / expected) < 85.4  # chi-square, 49 degrees, p = .001
    assert all(len(np.unique(row)) < 400 for row in rows)
    # the own row is not left out
    assert np.any(rows[:50] == np.arange(50)[:, None])


def test_negatives_follow_from_seed_and_step(drawing):
    draw = drawing().draw_negatives
    first = draw(tf.constant(0, tf.int64), 8)
    np.testing.assert_array_equal(first, draw(tf.constant(0, tf.int64), 8))
    assert len({row.tobytes() for row in first.numpy()}) == 8
    for other in (draw(tf.constant(1, tf.int64), 8), drawing(seed=1).draw_negatives(0, 8)):
        assert np.mean(np.asarray(other) == first) < 0.1


@pytest.mark.parametrize("replicas", [2, 4])
def test_negatives_do_not_depend_on_the_replicas(drawing, strategy_of, replicas):
    method, strategy = drawing(negatives=16), strategy_of(replicas)
    step = tf.constant(5, tf.int64)
    expected = method.draw_negatives(step, 8)

    @tf.function
    def draw():
        return strategy.run(
            lambda: distribute.gather(
                method.draw_negatives(step, 8 // replicas), differentiable=False
            )
        )

    for found in draw().values:
        np.testing.assert_array_equal(found, expected)


def test_the_defaults_are_the_papers(tiny_backbone):
    config = InstDiscConfig()
    assert (config.temperature, config.proj_out_dim, config.num_negatives) == (0.07, 128, 4096)
    assert (config.bank_momentum, config.instance_loss) == (0.5, "nce")
    assert config.proximal_weight == 0  # the released code's
    recipe = config.DEFAULTS["pretrain"]
    assert (recipe["learning_rate"], recipe["weight_decay"]) == (0.03, 1e-4)
    assert (recipe["train_batch_size"], recipe["decay_epochs"]) == (256, "120,160")
    assert (InstDisc.num_views, InstDisc.least_batch, InstDisc.needs_labels) == (1, 1, False)
    method = InstDisc(tiny_backbone(), config, plan=Plan(num_examples=9))
    method.projector(tf.ones([2, 6]))
    assert [v.shape for v in method.projector.trainable_variables] == [(6, 128), (128,)]


def test_what_it_cannot_do_without(tiny_backbone, golden):
    with pytest.raises(ValueError, match=r"memory bank needs plan=Plan\(num_examples=\.\.\.\)"):
        InstDisc(tiny_backbone())
    for kind in KINDS[1:]:
        message = rf"^--proximal_weight is for --instance_loss=nce. Received: 30 with {kind}$"
        with pytest.raises(UserError, match=message):
            golden(instance_loss=kind, proximal_weight=30.0)
    method, outputs = golden()
    with pytest.raises(ValueError, match=r"batch\['index'\].* Received: a batch of label, views$"):
        method.compute_losses(outputs, {"views": (), "label": 0})


def test_the_normalizer_is_measured_in_the_first_step_of_a_training(make_method, fit):
    method = make_method("instdisc")
    logs = fit(method, 1)
    first = kept(method)
    assert first == pytest.approx(logs["log_normalizer"])
    assert first > math.log(16)  # 16 rows, scores above 0 on average after the exponential
    fit(method, 4)
    assert kept(method) == first


class Renumbered(InstDisc):
    """What a shuffled cache does: the index names another image at every step."""

    def train_step(self, batch):
        step = tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.int64)
        order = distribute.permutation(16, seed=1, step=step)
        return super().train_step({**batch, "index": tf.gather(batch["index"], order)})


@pytest.mark.parametrize(
    ("variant", "kind"), [*((InstDisc, kind) for kind in KINDS), (Renumbered, "full_softmax")]
)
def test_images_are_told_apart_if_the_index_is_stable(make_method, fit, monkeypatch, variant, kind):
    monkeypatch.setitem(METHODS, "instdisc", variant)
    config = InstDiscConfig(proj_out_dim=5, num_negatives=24, temperature=0.1, instance_loss=kind)
    method = make_method(
        "instdisc", config=config, classes=0, optimizer=lambda: keras.optimizers.Adam(0.01)
    )
    fit(method, 120)
    accuracy = fit(method, 1)["contrastive_accuracy"]
    assert accuracy > 0.9 if variant is InstDisc else accuracy < 0.4
