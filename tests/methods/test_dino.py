"""DINO: the loss by hand, the teacher, the center and the frozen layer, step by step."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import DINO, DINOConfig, Plan
from tfcontrast.methods.dino import NUM_GLOBAL_VIEWS
from tfcontrast.train.options import make_config


@pytest.fixture
def dino(make_method):
    def make(**changes):
        return make_method("dino", changes=changes, classes=0)

    return make


def views_of(*sides, batch=4, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(tf.constant(rng.random([batch, s, s, 3]), tf.float32) for s in sides)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def outputs_of(student, teacher, step=0):
    """What a step's ``compute_losses`` gets."""
    rows = sum(len(part) for part in student)
    return {
        "student_logits": tf.constant(np.concatenate(student), tf.float32),
        "teacher_logits": tf.constant(np.concatenate(teacher), tf.float32),
        "embeddings": tf.random.stateless_normal([rows, 5], [0, 1]),
        "features": tf.random.stateless_normal([rows, 6], [0, 2]),
        "step": tf.constant(step, tf.int64),
        "taken": tf.constant(True),
    }


def golden_outputs():
    """The worked example: four rows, six dimensions, three prototypes, two views."""
    i, j = np.arange(4)[:, None], np.arange(6)[None]
    a = unit(np.sin(1 + 0.7 * i + 1.3 * j + 0.11 * i * j))
    b = unit(np.cos(0.5 + 0.9 * i + 0.8 * j + 0.07 * i * j))
    c = unit(np.cos(0.2 + 0.6 * np.arange(3)[:, None] + 0.9 * j)).T
    return outputs_of([3 * a @ c + 0.1, 3 * b @ c - 0.2], [4 * a @ c, 4 * b @ c])


def test_the_loss_and_the_next_center_are_the_worked_examples(dino):
    method = dino(num_prototypes=3, temperature=0.1, teacher_temperature_start=0.04)
    outputs = golden_outputs()
    method.center.assign([0.1, -0.2, 0.05])
    found = method.compute_losses(outputs, {})
    assert tuple(found) == DINO.metric_names
    assert float(found["loss"]) == pytest.approx(1.5985560334, abs=1e-5)
    parts = float(found["teacher_entropy"] + found["teacher_student_kl"])
    assert parts == pytest.approx(float(found["loss"]), rel=1e-6)
    assert float(found["center_norm"]) == pytest.approx(np.sqrt(0.0525))
    method.after_update({**outputs, "taken": tf.constant(False)}, {})
    np.testing.assert_array_equal(method.center, np.float32([0.1, -0.2, 0.05]))
    method.after_update(outputs, {})
    np.testing.assert_allclose(method.center, [0.095604, -0.095314, 0.173141], atol=1e-6)


@pytest.mark.parametrize(("views", "terms"), [(2, 2), (3, 4), (10, 18)])
def test_each_global_view_is_predicted_from_every_other_view(dino, views, terms):
    rng = np.random.default_rng(0)
    student = list(rng.normal(size=(views, 3, 7)))
    teacher = list(rng.normal(size=(2, 3, 7)))
    center = rng.normal(size=7)
    method = dino(temperature=0.2, teacher_temperature=0.5, teacher_temperature_epochs=0)
    method.center.assign(center)
    goals = [softmax((t - center) / 0.5) for t in teacher]
    pairs = [(i, v) for i in range(2) for v in range(views) if v != i]
    assert len(pairs) == terms == 2 * (views - 1)
    costs = [-np.sum(goals[i] * np.log(softmax(student[v] / 0.2)), 1).mean() for i, v in pairs]
    found = method.compute_losses(outputs_of(student, teacher), {})
    assert float(found["loss"]) == pytest.approx(np.sum(costs) / terms, rel=1e-5)
    entropy = np.mean([-np.sum(goal * np.log(goal), 1) for goal in goals])
    assert float(found["teacher_entropy"]) == pytest.approx(entropy, rel=1e-5)


def test_the_stuck_loss_is_that_of_outputs_that_are_all_alike(dino):
    method = dino()
    outputs = outputs_of([np.zeros([4, 7])] * 4, [np.ones([4, 7])] * 2)
    assert method.stuck_loss(16) == pytest.approx(float(method.compute_losses(outputs, {})["loss"]))


def test_only_global_views_pass_the_teacher_and_all_the_student(dino):
    method, views = dino(), views_of(8, 8, 4, 4, 4)
    teacher, student = method.targets(views), method(views)
    assert teacher["teacher_logits"].shape == (2 * 4, 7)
    assert student["student_logits"].shape == (5 * 4, 7)
    assert student["features"].shape == (5 * 4, 6)
    # both start as the same networks, so they agree on what both see
    assert NUM_GLOBAL_VIEWS == 2
    agreed = student["student_logits"][:8]
    np.testing.assert_allclose(teacher["teacher_logits"], agreed, atol=1e-6)
    others = (*views[:2], *views_of(4, 4, 4, seed=1))
    np.testing.assert_array_equal(
        method.targets(others)["teacher_logits"], teacher["teacher_logits"]
    )
    assert np.any(method(others)["student_logits"][8:] != student["student_logits"][8:])


def test_the_logits_are_cosines_with_the_prototypes(dino):
    method, views = dino(), views_of(8, 8)
    found = method(views)
    rows = unit(np.asarray(found["embeddings"], np.float64))
    columns = unit(np.asarray(method.last_layer.direction, np.float64).T)
    np.testing.assert_allclose(found["student_logits"], rows @ columns.T, atol=1e-5)
    assert np.abs(found["student_logits"]).max() <= 1 + 1e-6
    method.last_layer.gain.assign(np.full([1, 7], 3.0))
    np.testing.assert_allclose(method(views)["student_logits"], 3 * rows @ columns.T, atol=3e-5)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, "kernel bias kernel bias"),
        ({"num_proj_layers": 1}, "kernel bias"),
        ({"use_bn_in_head": True}, "kernel bias gamma beta kernel bias"),
    ],
)
def test_the_projector_is_what_the_options_say(options, names):
    config = DINOConfig(
        **{"proj_hidden_dim": 8, "proj_out_dim": 5, "num_proj_layers": 2, **options}
    )
    projector = DINO.make_projector(config)
    rows = tf.random.stateless_normal([4, 6], [0, 1])
    assert projector(rows).shape == (4, 5)
    assert [v.name for v in projector.trainable_variables] == names.split()
    assert projector.name == "projector"
    if projector.num_layers == 2 and not options:
        hidden = projector.dense_layers[0](rows)
        expected = projector.dense_layers[1](tf.nn.gelu(hidden))
        np.testing.assert_allclose(projector(rows), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("epochs", "expected"),
    [(0, [0.07] * 6), (1, [0.04] + [0.07] * 5), (4, [0.04, 0.05, 0.06, 0.07, 0.07, 0.07])],
)
def test_the_teachers_temperature_rises_by_epochs(dino, epochs, expected):
    method = dino(
        teacher_temperature_start=0.04, teacher_temperature=0.07, teacher_temperature_epochs=epochs
    )
    steps = method.plan.steps_per_epoch
    found = [float(method.teacher_temperature(tf.constant(s, tf.int64))) for s in range(6 * steps)]
    np.testing.assert_allclose(found, np.repeat(expected, steps), rtol=1e-6)
    seen = method.compute_losses(outputs_of([np.eye(4, 7)] * 2, [np.eye(4, 7)] * 2, steps), {})
    assert float(seen["teacher_temperature"]) == pytest.approx(expected[1])


def test_gradients_reach_the_whole_student_and_nothing_of_the_teacher(dino):
    method, views = dino(), views_of(8, 8, 4)
    teacher = [v for v in method.trainable_variables if v.path.split("/")[0].startswith("target")]
    assert len(teacher) == len(method.encoder_variables)
    with tf.GradientTape() as tape:
        outputs = {"step": tf.constant(0, tf.int64), **method.targets(views, True)}
        outputs.update(method(views, training=True))
        loss = method.compute_losses(outputs, {})["loss"]
    found = tape.gradient(loss, [*teacher, *method.encoder_variables])
    assert all(gradient is None for gradient in found[: len(teacher)])
    for variable, gradient in zip(method.encoder_variables, found[len(teacher) :], strict=True):
        assert np.any(np.abs(gradient) > 1e-7), variable.path


def test_the_defaults_are_the_papers():
    config = make_config({"method": "dino", "dataset": "imagenet2012"})
    own, optim = config.method, config.optim
    assert (own.proj_hidden_dim, own.proj_out_dim, own.num_prototypes) == (2048, 256, 65536)
    assert (own.num_proj_layers, own.num_local_views) == (3, 8)
    assert (own.use_bn_in_head, own.norm_last_layer, own.freeze_last_layer_epochs) == (
        False, True, 1
    )  # fmt: skip
    assert (own.temperature, own.center_momentum) == (0.1, 0.9)
    assert (own.ema_decay, own.ema_schedule, own.ema_statistics) == (0.996, "cosine", "own")
    assert (optim.weight_decay, optim.final_weight_decay) == (0.04, 0.4)
    peak = optim.learning_rate * config.train.train_batch_size / 256
    assert (peak, peak * optim.final_learning_rate) == (0.002, pytest.approx(1e-6))
    assert (optim.optimizer, optim.clip_tensor_norm, optim.clip_norm) == ("adamw", 3.0, 0.0)
    method = DINO(keras.Model(), own, plan=Plan(steps_per_epoch=10, total_steps=1000))
    found = [float(method.teacher_temperature(tf.constant(s))) for s in (0, 9, 290, 999)]
    np.testing.assert_allclose(found, [0.04, 0.04, 0.07, 0.07], rtol=1e-6)
    (group,) = method.parameter_groups()
    assert (group.layers, group.freeze_steps) == ((method.last_layer,), 10)


@pytest.mark.parametrize("name", ["freeze_last_layer_epochs", "teacher_temperature_epochs"])
def test_epochs_need_their_length(tiny_backbone, name):
    none = {"freeze_last_layer_epochs": 0, "teacher_temperature_epochs": 0}
    config = DINOConfig(ema_schedule="constant", **{**none, name: 1})
    with pytest.raises(ValueError, match=f"{name} needs .*steps_per_epoch.* Received: 0"):
        DINO(tiny_backbone(), config)
    assert (
        DINO(tiny_backbone(), DINOConfig(ema_schedule="constant", **none)).parameter_groups() == ()
    )
