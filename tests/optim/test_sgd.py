import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.optim import SGD


def run(optimizer, weight, gradients, rates=None):
    variable = keras.Variable(np.array(weight, np.float32), name="w")
    optimizer.build([variable])
    for step, gradient in enumerate(gradients):
        if rates is not None:
            optimizer.learning_rate = rates[step]
        optimizer.apply([tf.constant(gradient, tf.float32)])
    return variable.numpy()


def test_three_steps_by_hand():
    # w=1, lr=.5, momentum=.5, decay=.1
    # g=1: d=1+.1=1.1; v=1.1;          w=1-.55=.45
    # g=0, lr=.1: d=.045; v=.55+.045=.595;  w=.45-.0595=.3905
    # g=-1, lr=.1: d=-.96095; v=.2975-.96095=-.66345; w=.3905+.066345=.456845
    result = run(
        SGD(0.5, momentum=0.5, weight_decay=0.1), [1.0], [[1.0], [0.0], [-1.0]], [0.5, 0.1, 0.1]
    )
    np.testing.assert_allclose(result, [0.456845], rtol=1e-6)


def test_nesterov_by_hand():
    # g=1: v=1, w=1-.1*(1+.9)=.81; g=2: v=2.9, w=.81-.1*(2+2.61)=.349
    result = run(SGD(0.1, momentum=0.9, nesterov=True), [1.0], [[1.0], [2.0]])
    np.testing.assert_allclose(result, [0.349], rtol=1e-6)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.7, True)])
def test_equals_keras_while_the_rate_is_constant(momentum, nesterov):
    rng = np.random.default_rng(0)
    weight, gradients = rng.normal(size=(4, 2)), rng.normal(size=(5, 4, 2))
    ours = run(SGD(0.1, momentum=momentum, nesterov=nesterov), weight, gradients)
    keras_sgd = keras.optimizers.SGD(0.1, momentum=momentum, nesterov=nesterov)
    np.testing.assert_allclose(ours, run(keras_sgd, weight, gradients), rtol=1e-5, atol=1e-6)


def test_biases_are_decayed_as_torch_does_unless_excluded():
    decayed = run(SGD(0.1, momentum=0.0, weight_decay=0.5), [2.0], [[0.0]])
    np.testing.assert_allclose(decayed, [1.9])
    excluded = SGD(0.1, momentum=0.0, weight_decay=0.5, exclude_from_decay=("bias", "norm"))
    np.testing.assert_allclose(run(excluded, [2.0], [[0.0]]), [2.0])


def test_without_momentum_there_is_no_slot():
    variable = keras.Variable(np.ones(3, np.float32), name="w")
    for momentum, slots in ((0.0, 0), (0.9, 1)):
        optimizer = SGD(0.1, momentum=momentum)
        optimizer.build([variable])
        # iteration, learning rate, two counts of bad steps, the last rollback
        assert len(optimizer.variables) == 5 + slots


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\). Received: 1.0"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov needs a momentum"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SGD(0.1, **options)
