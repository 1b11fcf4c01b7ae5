import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.train import state


@pytest.fixture(scope="module")
def methods(tiny_config, build_run):
    """Two of a kind, with other models built before the second."""
    strategy = tf.distribute.get_strategy()
    first, _ = build_run(tiny_config(proj_batch_norm=True), strategy)
    for _ in range(3):
        keras.Sequential([keras.layers.Dense(2), keras.layers.BatchNormalization()]).build((1, 3))
    keras.optimizers.SGD(momentum=0.9).build([keras.Variable(1.0)])
    second, _ = build_run(tiny_config(proj_batch_norm=True), strategy)
    return first, second


def test_names_do_not_depend_on_what_was_built_before(methods):
    first, second = (state.full_state(method) for method in methods)
    assert list(first) == list(second)
    for name in first:
        assert first[name].shape == second[name].shape


def test_names_are_these(methods):
    names = set(state.full_state(methods[1]))
    assert {
        "backbone/stem/conv1/kernel",
        "backbone/stem/norm1/moving_variance",
        "projector/dense1/kernel",
        "projector/norm1/gamma",
        "probe/kernel",
        "optimizer/0000",
        "probe_optimizer/0000",
        "metrics/loss/0",
    } <= names
    assert {name.split("/")[0] for name in names} == {
        "backbone", "projector", "probe", "optimizer", "probe_optimizer", "metrics"
    }  # fmt: skip


def test_every_variable_is_there_once(methods):
    method = methods[0]
    full = state.full_state(method)
    assert len({id(v) for v in full.values()}) == len(full)
    held = [*method.variables, *method.optimizer.variables, *method.probe_optimizer.variables]
    assert {id(v) for v in held} <= {id(v) for v in full.values()}
    networks = state.model_state(method)
    assert {id(v) for v in networks.values()} == {
        id(v) for v in [*method.trainable_variables, *method.non_trainable_variables]
    }
    assert networks.keys() <= full.keys()


def test_siblings_with_automatic_names_are_numbered():
    class Holder(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="holder_3")
            self.blocks = [keras.layers.Dense(2) for _ in range(2)]
            self.single = keras.layers.LayerNormalization()

        def build(self, shape):
            self.queue = self.add_weight(shape=(4,), name="queue", trainable=False)
            for layer in (*self.blocks, self.single):
                layer.build(shape)

    keras.layers.Dense(1)  # moves Keras's counter
    holder = Holder()
    holder.build((1, 2))
    names = [name for name, _ in state.named_variables(holder, "top")]
    assert names == [
        "top/queue",
        "top/dense_0/kernel",
        "top/dense_0/bias",
        "top/dense_1/kernel",
        "top/dense_1/bias",
        "top/layer_normalization/gamma",
        "top/layer_normalization/beta",
    ]


def test_values_are_the_variables_under_replicas_too(strategy_of):
    with strategy_of(2).scope():
        layer = keras.layers.Dense(3)
        layer.build((None, 2))
    layer.bias.assign([1.0, 2.0, 3.0])
    found = state.values(dict(state.named_variables(layer, "d")))
    np.testing.assert_array_equal(found["d/bias"], [1, 2, 3])
    np.testing.assert_array_equal(found["d/kernel"], layer.kernel.numpy())


def test_the_network_that_is_evaluated_takes_the_backbones_name():
    arrays = {
        name: np.full(1, number)
        for number, name in enumerate(
            [
                "backbone/conv/kernel",
                "projector/dense1/kernel",
                "target_backbone/conv/kernel",
                "target_projector/dense1/kernel",
                "target_last_layer/direction",
                "target_backbone_of_another/kernel",
                "probe/kernel",
                "center",
            ]
        )
    }
    assert state.as_backbone(arrays, "target_backbone") == {
        "backbone/conv/kernel": arrays["target_backbone/conv/kernel"],
        "projector/dense1/kernel": arrays["target_projector/dense1/kernel"],
    }
    # nothing to rename: the method's own backbone, or a checkpoint of linear_eval and finetune
    assert state.as_backbone(arrays, "backbone") is arrays
    classifier = {"backbone/conv/kernel": np.ones(1), "classifier/kernel": np.zeros(1)}
    assert state.as_backbone(classifier, "target_backbone") is classifier


def test_a_methods_slow_copies_have_the_backbones_names(tiny_config, build_run):
    small = {"proj_hidden_dim": 8, "proj_out_dim": 4, "num_prototypes": 8}
    config = tiny_config(method="dino", **small)
    method, _ = build_run(config, tf.distribute.get_strategy())
    arrays = state.values(state.model_state(method))
    found = state.as_backbone(arrays, type(method).encoder_name)
    networks = {n for n in arrays if n.startswith(("backbone/", "projector/"))}
    assert found.keys() == networks
    assert all(found[name] is arrays[f"target_{name}"] for name in networks)
