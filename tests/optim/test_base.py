import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.optim import OPTIMIZERS, SGD, WarmupSchedule, variable_roles


def small_model():
    model = keras.Sequential(
        [
            keras.layers.Dense(3, name="a"),
            keras.layers.LayerNormalization(name="b"),
            keras.layers.Dense(2, name="c"),
        ],
        name="m",
    )
    model.build((None, 4))
    return model


def copies(variable):
    """A variable's value on every replica."""
    value = variable.value
    return [v.numpy() for v in getattr(value, "values", (value,))]


def train(strategy, cls, **options):
    """Three steps on one fixed global batch; returns the model and the optimizer."""
    replicas = strategy.num_replicas_in_sync
    rng = np.random.default_rng(5)
    inputs, targets = rng.normal(size=(8, 4)), rng.normal(size=(8, 2))
    keras.utils.set_random_seed(7)
    with strategy.scope():
        model = small_model()
        optimizer = cls(
            WarmupSchedule(0.1, total_steps=8, warmup_steps=1, warmup_start=0.05), **options
        )
        optimizer.set_roles(variable_roles(model))
        optimizer.build(model.trainable_variables)

    def step():
        context = tf.distribute.get_replica_context()
        rows = 8 // replicas
        first = rows * tf.cast(context.replica_id_in_sync_group, tf.int32)
        x = tf.constant(inputs, tf.float32)[first : first + rows]
        y = tf.constant(targets, tf.float32)[first : first + rows]
        with tf.GradientTape() as tape:
            loss = 50 * tf.reduce_mean(tf.square(model(x) - y)) / replicas
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    steps = tf.function(lambda: strategy.run(step))
    for _ in range(3):
        steps()
    return model, optimizer


OPTIONS = {
    "clip_norm": {"clip_norm": 0.5},
    "clip_tensor_norm": {"clip_tensor_norm": 0.3},
    "frozen": {"freeze_steps": {"norm": 2}},
}


@functools.cache
def alone(name, option):
    """The model that one replica trains."""
    strategy = tf.distribute.get_strategy()
    return train(strategy, OPTIMIZERS[name], weight_decay=0.01, **OPTIONS[option])[0]


# Each replica is traced: four of them for the optimizer with norms of its own, and every option.
@pytest.mark.parametrize(
    ("name", "option", "replicas"),
    [(name, "clip_norm", 2) for name in OPTIMIZERS]
    + [("lars", "clip_norm", 4), ("sgd", "clip_tensor_norm", 4), ("adamw", "frozen", 4)],
)
def test_a_step_does_not_depend_on_the_number_of_replicas(strategy_of, name, option, replicas):
    options = {"weight_decay": 0.01, **OPTIONS[option]}
    one = alone(name, option)
    many, optimizer = train(strategy_of(replicas), OPTIMIZERS[name], **options)
    for expected, result in zip(one.variables, many.variables, strict=True):
        np.testing.assert_allclose(result.numpy(), expected.numpy(), rtol=2e-4, atol=2e-6)
    assert int(optimizer.iterations.numpy()) == 3
    for variable in [*many.variables, *optimizer.variables]:
        held = copies(variable)
        assert len(held) == replicas
        for copy in held[1:]:
            np.testing.assert_array_equal(copy, held[0])


def test_opposite_gradients_are_clipped_after_their_sum(strategy_of):
    # [30, 0] + [-30, 4] = [0, 4], clipped to [0, 1]; each clipped alone would give about [0, 0.13]
    strategy = strategy_of(2)
    with strategy.scope():
        variable = keras.Variable(np.zeros(2, np.float32), name="w")
        optimizer = SGD(1.0, momentum=0.0, clip_norm=1.0)
        optimizer.build([variable])

    @tf.function
    def step():
        def on_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            optimizer.apply([tf.gather([[30.0, 0.0], [-30.0, 4.0]], replica)], [variable])

        strategy.run(on_replica)

    step()
    np.testing.assert_allclose(variable.numpy(), [0.0, -1.0], atol=1e-6)


def one_step(gradients, **options):
    variables = [
        keras.Variable(np.zeros(len(g), np.float32), name=f"w{i}") for i, g in enumerate(gradients)
    ]
    optimizer = SGD(1.0, momentum=0.0, **options)
    optimizer.build(variables)
    optimizer.apply([tf.constant(g) for g in gradients])
    return [-v.numpy() for v in variables]


def test_clipping_by_the_global_and_by_each_tensors_norm():
    gradients = [[3.0, 4.0], [0.0, 12.0]]  # norms 5 and 12, together 13
    together = one_step(gradients, clip_norm=6.5)
    np.testing.assert_allclose(np.stack(together), [[1.5, 2.0], [0.0, 6.0]], rtol=1e-6)
    each = one_step(gradients, clip_tensor_norm=6.0)
    np.testing.assert_allclose(np.stack(each), [[3.0, 4.0], [0.0, 6.0]], rtol=1e-6)
    loose = one_step(gradients, clip_norm=13.5)
    np.testing.assert_allclose(np.stack(loose), gradients, rtol=1e-6)
    zero = one_step([[0.0, 0.0]], clip_norm=1.0)
    np.testing.assert_array_equal(zero[0], [0.0, 0.0])


def test_no_clipping_makes_a_gradient_finite_that_is_not():
    for options in ({"clip_norm": 1.0}, {"clip_tensor_norm": 1.0}):
        np.testing.assert_array_equal(one_step([[np.inf, 1.0], [1.0]], **options)[1], [0.0])


def test_clipping_comes_before_decay():
    variable = keras.Variable(np.array([[10.0]], np.float32), name="w")
    optimizer = SGD(1.0, momentum=0.0, weight_decay=0.5, clip_norm=1.0)
    optimizer.build([variable])
    optimizer.apply([tf.constant([[100.0]])])
    np.testing.assert_allclose(variable.numpy(), [[10 - 1 - 5]])


def test_sparse_gradients_are_summed_rows():
    table = keras.Variable(np.zeros((3, 2), np.float32), name="t")
    optimizer = SGD(1.0, momentum=0.5)
    optimizer.build([table])
    rows = tf.IndexedSlices(tf.constant([[1.0, 2.0], [3.0, 4.0]]), [2, 2], [3, 2])
    optimizer.apply([rows])
    np.testing.assert_allclose(table.numpy(), [[0, 0], [0, 0], [-4, -6]])


def test_frozen_variables_and_their_slots_stand_still():
    model = small_model()
    optimizer = SGD(0.1, momentum=0.9, weight_decay=0.1, freeze_steps={"head": 2})
    optimizer.set_roles(variable_roles(model, {"head": [model.layers[2]]}))
    optimizer.build(model.trainable_variables)
    start = [v.numpy() for v in model.trainable_variables]
    moved = []
    for _ in range(3):
        optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables])
        moved.append(
            [
                not np.array_equal(v.numpy(), s)
                for v, s in zip(model.trainable_variables, start, strict=True)
            ]
        )
    assert moved == [[True] * 4 + [False] * 2] * 2 + [[True] * 6]
    # one step's velocity only: gradient + decay * weight
    np.testing.assert_allclose(optimizer._velocities[4].numpy(), 1 + 0.1 * start[4], rtol=1e-6)


def test_freezing_needs_no_branch():
    """In one, TensorFlow's rewriting of sums can end the second step: see `update_step`."""
    variables = [keras.Variable(np.ones((3, 2), np.float32), name="w")]
    optimizer = SGD(0.1, momentum=0.9, weight_decay=0.1, freeze_steps={"kernel": 2})
    optimizer.build(variables)
    step = tf.function(lambda: optimizer.apply([tf.ones((3, 2))], variables))
    kinds = {operation.type for operation in step.get_concrete_function().graph.get_operations()}
    assert "AssignVariableOp" in kinds
    assert not kinds & {"If", "StatelessIf", "Case", "StatelessCase"}


def test_weight_decay_may_follow_a_schedule():
    decay = WarmupSchedule(0.4, total_steps=10, warmup_steps=4, warmup_start=0.0, decay="constant")
    variable = keras.Variable(np.ones((1, 1), np.float32), name="w")
    optimizer = SGD(1.0, momentum=0.0, weight_decay=decay)
    optimizer.build([variable])
    for _ in range(3):  # decays by 0, 0.1, 0.2
        optimizer.apply([tf.zeros((1, 1))])
    np.testing.assert_allclose(variable.numpy(), [[0.9 * 0.8]], rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_config_round_trip_trains_the_same(name, strategy_of):
    options = {
        "weight_decay": WarmupSchedule(0.1, total_steps=9),
        "exclude_from_decay": ("norm",),
        "exclude_from_adaptation": ("norm", "bias"),
        "freeze_steps": {"bias": 1},
        "clip_norm": 0.7,
        "name": "mine",
    }
    model, optimizer = train(strategy_of(1), OPTIMIZERS[name], **options)
    data = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(data)
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    rebuilt, _ = train(strategy_of(1), lambda rate, **_: again)
    for result, expected in zip(rebuilt.variables, model.variables, strict=True):
        np.testing.assert_array_equal(result.numpy(), expected.numpy())


def test_slots_come_back_from_a_tf_checkpoint(tmp_path, strategy_of):
    model, optimizer = train(strategy_of(1), SGD, weight_decay=0.1)
    path = tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "c"))
    fresh = small_model()
    other = SGD(WarmupSchedule(0.1, total_steps=8), weight_decay=0.1)
    other.build(fresh.trainable_variables)
    restored = tf.train.Checkpoint(model=fresh, optimizer=other).read(path)
    restored.assert_consumed()
    assert int(other.iterations) == 3
    for slot, expected in zip(other._velocities, optimizer._velocities, strict=True):
        np.testing.assert_array_equal(slot.numpy(), expected.numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_decay": -0.1}, "must not be negative. Received: -0.1"),
        ({"clip_norm": 1.0, "clip_tensor_norm": 1.0}, "not both"),
        ({"clip_norm": 0.0}, "must be positive. Received: 0.0"),
        ({"clip_tensor_norm": -1.0}, "must be positive. Received: -1.0"),
        ({"global_clipnorm": 1.0}, "Received: global_clipnorm"),
        ({"gradient_accumulation_steps": 2}, "Received: gradient_accumulation_steps"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SGD(0.1, **options)


@pytest.mark.parametrize("exclude", [("norm",), ("bias",), ("head",), ("kernel", "norm")])
def test_exclusions_that_ranks_cannot_tell_need_roles(exclude):
    optimizer = SGD(0.1, exclude_from_decay=exclude)
    with pytest.raises(ValueError, match="Call set_roles"):
        optimizer.build([keras.Variable(np.zeros((2, 2), np.float32), name="w")])


def test_a_variable_without_a_role_is_refused():
    model = small_model()
    optimizer = SGD(0.1)
    optimizer.set_roles(variable_roles(model.layers[0]))
    with pytest.raises(ValueError, match=r"Received none for: .*b/gamma"):
        optimizer.build(model.trainable_variables)


def test_roles_come_before_build():
    model = small_model()
    optimizer = SGD(0.1)
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="before the optimizer is built"):
        optimizer.set_roles(variable_roles(model))
