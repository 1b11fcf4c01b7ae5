"""DINO's state, step by step: the teacher, the center, the frozen layer, and local views."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import DINO, Plan
from tfcontrast.optim import make_optimizer
from tfcontrast.train import state

TEACHER = ("target_backbone/", "target_projector/", "target_last_layer/")
LEARNED = ("kernel", "bias", "gamma", "beta", "direction", "gain")


@pytest.fixture
def dino(make_method):
    def make(optimizer, *, strategy=None, backbone=None, plan=None, eager=False, **changes):
        chosen = {"strategy": strategy, "backbone": backbone, "plan": plan}
        return make_method(
            "dino",
            changes={"ema_schedule": "constant", **changes},
            optimizer=optimizer,
            classes=0,
            compile={"run_eagerly": eager},
            **{name: value for name, value in chosen.items() if value is not None},
        )

    return make


def batch_of(*sides, batch=16, seed=0):
    rng = np.random.default_rng(seed)
    views = tuple(tf.constant(rng.random([batch, s, s, 3]), tf.float32) for s in sides)
    index = tf.range(batch, dtype=tf.int64)
    return {"views": views, "label": index % 4, "index": index}


def arrays(method):
    return {k: v.copy() for k, v in state.values(state.model_state(method)).items()}


def sgd(**options):
    return lambda: make_optimizer("sgd", learning_rate=0.1, weight_decay=0.01, **options)


def test_the_teacher_averages_directions_and_lengths(dino, fit):
    method = dino(sgd())
    before = arrays(method)
    fit(method, 1)
    after = arrays(method)
    checked = set()
    for name, old in before.items():
        kind = name.split("/")[-1]
        if name.startswith(TEACHER) and kind in LEARNED:
            online = after[name.removeprefix("target_")]
            np.testing.assert_allclose(after[name], 0.9 * old + 0.1 * online, rtol=1e-6, atol=1e-8)
            assert np.any(after[name] != old), name
            checked.add(kind)
    assert checked >= {"kernel", "direction", "gain", "gamma"}


def test_a_decay_of_one_keeps_the_teacher_but_not_its_batch_statistics(dino, fit):
    method = dino(sgd(), ema_decay=1.0)
    before = arrays(method)
    fit(method, 2)
    after = arrays(method)
    for name in before:
        moves = not name.startswith(TEACHER) or "/moving_" in name
        assert np.any(before[name] != after[name]) == moves, name


def test_the_center_follows_the_raw_outputs_of_global_views(dino):
    method, batch = dino(sgd()), batch_of(8, 8, 4)
    logits = method.targets(batch["views"], training=True)["teacher_logits"]
    method.train_step(batch)
    np.testing.assert_allclose(method.center, 0.1 * np.mean(logits, 0), rtol=1e-5, atol=1e-7)
    still = dino(sgd(), center_momentum=1.0)
    still.train_step(batch)
    assert not np.any(still.center)


def test_the_last_layer_is_frozen_for_its_epochs_bit_for_bit(dino, fit):
    method = dino(sgd(momentum=0.9), freeze_last_layer_epochs=1)
    before = arrays(method)
    own = ("last_layer/direction", "last_layer/gain")
    assert method.plan.steps_per_epoch == 4
    fit(method, 4)
    frozen = arrays(method)
    for name in own:
        np.testing.assert_array_equal(frozen[name], before[name])
        np.testing.assert_allclose(frozen[f"target_{name}"], before[name], rtol=1e-6)
    slots = {tuple(v.shape): v.numpy() for v in method.optimizer.variables}
    assert not np.any(slots[5, 7])
    assert not np.any(slots[1, 7])
    moved = [n for n in before if n.startswith("projector/") and np.any(before[n] != frozen[n])]
    assert len(moved) == 4
    fit(method, 1)
    after = arrays(method)
    assert all(np.any(after[name] != before[name]) for name in own)


def test_a_skipped_step_moves_nothing(dino):
    method = dino(sgd())
    method.train_step(batch_of(8, 8))
    before = arrays(method)
    bad = batch_of(8, 8, seed=1)
    views = [view.numpy() for view in bad["views"]]
    views[1][3, 0, 0, 0] = np.nan
    method.train_step({**bad, "views": tuple(tf.constant(view) for view in views)})
    after = arrays(method)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    method.train_step(batch_of(8, 8, seed=2))
    assert np.any(arrays(method)["center"] != before["center"])


def test_what_is_evaluated_is_the_teacher(dino, fit):
    method = dino(sgd())
    fit(method, 3)
    images = batch_of(8)["views"][0]
    found = method.embed(images)
    assert DINO.encoder_name == "target_backbone"
    np.testing.assert_array_equal(found, method.target_backbone(images, training=False))
    assert np.abs(found - method.backbone(images, training=False)).max() > 1e-4


@pytest.mark.parametrize("run_seed", [3, 2**32 - 1])
def test_only_the_student_drops_branches_by_the_runs_seed_and_the_step(
    dino, tiny_backbone, run_seed
):
    seen = []

    class Dropping(tiny_backbone):
        needs_seed = True

        def call(self, images, training=False, seed=None, views=1):
            seen.append((self.name, None if seed is None else seed.numpy().tolist(), views))
            return super().call(images, training)

    plan = Plan(batch_size=16, steps_per_epoch=4, total_steps=40, seed=run_seed)
    method = dino(sgd(), backbone=Dropping, plan=plan, eager=True)
    seen.clear()
    for _ in range(2):
        method.train_step(batch_of(8, 8, 4))
    first = int(np.uint32(run_seed).view(np.int32))
    assert seen == [
        call
        for step in (0, 1)
        for call in (
            ("target_backbone", None, 2),
            ("backbone", [first, step], 2),
            ("backbone", [first, step], 1),
        )
    ]


def test_local_views_on_two_replicas_and_under_xla_are_the_same(dino, strategy_of):
    """The table of replicas has full-size views only."""
    batch, steps = batch_of(8, 8, 4, 4), 2

    def run(replicas, jit_compile=False):
        strategy = strategy_of(replicas)
        method = dino("sgd", strategy=strategy)
        rows = 16 // replicas

        def share(context):
            first = context.replica_id_in_sync_group * rows
            return tf.nest.map_structure(lambda x: x[first : first + rows], batch)

        if replicas == 1:
            step = tf.function(method.train_step, jit_compile=jit_compile)
            logs = [step(batch) for _ in range(steps)][-1]
        else:
            mine = strategy.experimental_distribute_values_from_function(share)
            step = tf.function(lambda: strategy.run(method.train_step, args=(mine,)))
            logs = [step() for _ in range(steps)][-1]
            logs = {name: strategy.experimental_local_results(v)[0] for name, v in logs.items()}
        return {name: float(value) for name, value in logs.items()}, arrays(method)

    logs, expected = run(1)
    for found_logs, found in (run(2), run(1, jit_compile=True)):
        assert found_logs == pytest.approx(logs, rel=1e-5, abs=1e-6)
        for name, value in expected.items():
            atol = 1e-5 * np.abs(value).max()
            np.testing.assert_allclose(found[name], value, 0, atol, err_msg=name)
