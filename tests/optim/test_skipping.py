import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.optim import OPTIMIZERS, SGD, Adam, WarmupSchedule

NAN, INF = float("nan"), float("inf")
SHAPES = ((3, 2), (2,))


def good(number):
    rng = np.random.default_rng(number)
    return [rng.normal(size=shape).astype(np.float32) for shape in SHAPES]


def spoiled(number, value):
    """The same with one bad entry, in the last variable."""
    gradients = good(number)
    gradients[-1][1] = value
    return gradients


def make(cls, **options):
    """Two variables and a built optimizer that decays, clips and has a schedule."""
    rng = np.random.default_rng(9)
    variables = [
        keras.Variable(rng.normal(size=s).astype(np.float32), name=f"w{i}")
        for i, s in enumerate(SHAPES)
    ]
    rate = WarmupSchedule(0.1, total_steps=9, warmup_steps=2, warmup_start=0.02)
    optimizer = cls(rate, **{"weight_decay": 0.1, "clip_norm": 1.0, **options})
    optimizer.build(variables)
    return variables, optimizer


def applied(optimizer, mode):
    apply = lambda gradients: optimizer.apply(gradients)  # noqa: E731
    return apply if mode == "eager" else tf.function(apply, jit_compile=mode == "xla")


def run(variables, optimizer, mode, gradients):
    """Takes the steps; None skips one by hand: the step counts and nothing else happens."""
    apply = applied(optimizer, mode)
    for step in gradients:
        if step is None:
            optimizer.iterations.assign_add(1)
        else:
            apply([tf.constant(g) for g in step])
    counters = {id(optimizer.bad_steps), id(optimizer.bad_steps_in_a_row)}
    return [v.numpy() for v in [*variables, *optimizer.variables] if id(v) not in counters]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, "graph") for name in OPTIMIZERS]
    + [(name, mode) for name in ("lars", "adamw", "sgd") for mode in ("eager", "xla")],
)
def test_a_bad_step_is_as_if_it_had_not_been(name, mode):
    variables, optimizer = make(OPTIMIZERS[name])
    steps = [good(0), spoiled(1, NAN), spoiled(2, -INF), spoiled(3, 1e30), good(4)]
    found = run(variables, optimizer, mode, steps)
    assert (int(optimizer.iterations), int(optimizer.bad_steps)) == (5, 3)
    assert int(optimizer.bad_steps_in_a_row) == 0
    expected = run(*make(OPTIMIZERS[name]), mode, [good(0), None, None, None, good(4)])
    assert_same(found, expected)
    assert all(np.isfinite(value).all() for value in found)
    assert np.any(found[1] != run(*make(OPTIMIZERS[name]), mode, [good(0)])[1])


def test_counts_in_all_and_in_a_row():
    variables, optimizer = make(SGD)
    counts = []
    for bad in (False, True, True, False, True):
        run(variables, optimizer, "eager", [spoiled(0, NAN) if bad else good(0)])
        counts.append((int(optimizer.bad_steps), int(optimizer.bad_steps_in_a_row)))
    assert counts == [(0, 0), (1, 1), (2, 2), (2, 0), (3, 1)]
    names = [v.name for v in optimizer.variables]
    assert names[1:4] == ["bad_steps", "bad_steps_in_a_row", "last_rollback"]


@pytest.mark.parametrize("options", [{"clip_norm": None}, {}])
def test_a_large_gradient_is_taken_while_its_norm_is_finite(options):
    variables, optimizer = make(SGD, **options)
    run(variables, optimizer, "graph", [spoiled(0, 1e18)])
    assert int(optimizer.bad_steps) == 0
    run(variables, optimizer, "graph", [spoiled(0, 1e20)])
    assert int(optimizer.bad_steps) == 1


def test_a_frozen_variable_stays_frozen_over_a_bad_step():
    variables, optimizer = make(SGD, freeze_steps={"kernel": 3})
    start = variables[0].numpy()
    run(variables, optimizer, "graph", [good(0), spoiled(1, NAN), good(2)])
    np.testing.assert_array_equal(variables[0], start)
    np.testing.assert_array_equal(optimizer._velocities[0], np.zeros(SHAPES[0]))
    before = run(variables, optimizer, "graph", [spoiled(3, NAN)])
    np.testing.assert_array_equal(before[0], start)
    run(variables, optimizer, "graph", [good(4)])
    assert np.any(variables[0].numpy() != start)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adam_is_kerass_bit_for_bit(amsgrad):
    steps = [good(number) for number in range(4)]
    results = []
    for cls in (Adam, keras.optimizers.Adam):
        variables = [keras.Variable(g, name=f"w{i}") for i, g in enumerate(good(9))]
        optimizer = cls(1e-3, amsgrad=amsgrad)
        optimizer.build(variables)
        for mode in ("eager", "graph"):
            apply = applied(optimizer, mode)
            for step in steps:
                apply([tf.constant(g) for g in step])
        slots = [v for v in optimizer.variables if v.dtype == "float32"]
        results.append([v.numpy() for v in [*variables, *slots]])
    assert_same(*results)


def copies(variable):
    return [v.numpy() for v in variable.value.values]


@pytest.mark.parametrize(
    ("name", "replicas", "mode"),
    [(name, 2, "graph") for name in OPTIMIZERS] + [("lars", 4, "graph"), ("sgd", 2, "eager")],
)
def test_every_replica_skips_what_one_has_spoiled(strategy_of, name, replicas, mode):
    strategy = strategy_of(replicas)

    def train(steps):
        with strategy.scope():
            variables, optimizer = make(OPTIMIZERS[name])

        def step(number, bad):
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            spoils = tf.logical_and(bad, tf.equal(replica, replicas - 1))
            gradients = tf.cast(number + 1, tf.float32) * good(0)[0], tf.constant(good(0)[1])
            optimizer.apply([gradients[0], tf.where(spoils, NAN, gradients[1])])

        call = lambda *args: strategy.run(step, args=args)  # noqa: E731
        call = call if mode == "eager" else tf.function(call)
        for number, kind in enumerate(steps):
            if kind == "none":
                optimizer.iterations.assign_add(1)
            else:
                call(tf.constant(number), tf.constant(kind == "bad"))
        return variables, optimizer

    variables, optimizer = train(["good", "bad", "bad", "good", "bad"])
    assert copies(optimizer.bad_steps) == [3] * replicas
    assert copies(optimizer.bad_steps_in_a_row) == [1] * replicas
    others, control = train(["good", "none", "none", "good", "none"])
    counters = {"bad_steps", "bad_steps_in_a_row"}
    for found, expected in zip(
        [*variables, *optimizer.variables], [*others, *control.variables], strict=True
    ):
        first, *rest = copies(found)
        for copy in rest:
            np.testing.assert_array_equal(copy, first, err_msg=found.path)
        if found.name not in counters:
            np.testing.assert_array_equal(first, copies(expected)[0], err_msg=found.path)
