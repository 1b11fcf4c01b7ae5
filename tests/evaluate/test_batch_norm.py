import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.evaluate import reestimate_batch_norm


def network(momentum=0.9):
    first = keras.layers.BatchNormalization(momentum=momentum, name="first")
    second = keras.layers.BatchNormalization(momentum=0.99, name="second")
    model = keras.Sequential([first, keras.layers.Dense(3, name="dense"), second])
    model.build([None, 4])
    for layer in (first, second):
        layer.moving_mean.assign(layer.moving_mean + 7)
    return model, [first, second]


def batches(count=3):
    return list(np.random.default_rng(0).normal(2, 3, size=(count, 16, 4)).astype(np.float32))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_statistics_are_the_average_over_the_batches(compiled, momentum):
    model, layers = network(momentum)

    def call(x):
        return model(x, training=True)

    count = reestimate_batch_norm(tf.function(call) if compiled else call, layers, batches())
    assert count == 3
    inputs, hidden = batches(), []
    for x in inputs:
        normal = (x - x.mean(0)) / np.sqrt(x.var(0) + layers[0].epsilon)
        hidden.append(normal @ model.layers[1].kernel.numpy() + model.layers[1].bias.numpy())
    for layer, seen in zip(layers, (inputs, hidden), strict=True):
        means = np.mean([x.mean(0) for x in seen], axis=0)
        variances = np.mean([x.var(0) for x in seen], axis=0)
        np.testing.assert_allclose(layer.moving_mean, means, atol=1e-4)
        np.testing.assert_allclose(layer.moving_variance, variances, rtol=1e-4)


def test_inference_after_it_normalises():
    model, layers = network()
    x = batches(1)[0]
    reestimate_batch_norm(lambda rows: model(rows, training=True), layers, [x])
    out = layers[0](x, training=False).numpy()
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(out.std(0), 1, atol=1e-3)


def test_a_layer_that_is_not_reached_keeps_its_statistics():
    _, layers = network()
    reestimate_batch_norm(lambda x: layers[0](x, training=True), layers, batches())
    np.testing.assert_array_equal(layers[1].moving_mean, [7, 7, 7])
    np.testing.assert_array_equal(layers[1].moving_variance, [1, 1, 1])
    assert abs(layers[0].moving_mean.numpy() - 7).min() > 1


def test_a_failure_leaves_the_statistics_as_they_were():
    model, layers = network()

    def call(x):
        model(x, training=True)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        reestimate_batch_norm(call, layers, batches())
    np.testing.assert_array_equal(layers[0].moving_mean, [7] * 4)
    with pytest.raises(ValueError, match="Received: none"):
        reestimate_batch_norm(call, layers, [])
    np.testing.assert_array_equal(layers[0].moving_mean, [7] * 4)


def test_a_layer_that_does_not_move_is_refused():
    model, layers = network()
    layers[0].momentum = 1.0
    with pytest.raises(ValueError, match=r"momentum of first .*Received: 1.0"):
        reestimate_batch_norm(model, layers, batches())
