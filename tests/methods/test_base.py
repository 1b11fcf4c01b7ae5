import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import Method


class Counting(Method):
    """Loss = mean of the features; counts its updates in a variable, as a queue would."""

    metric_names = ("loss", "largest")
    num_views = 1

    def __init__(self, backbone, **options):
        super().__init__(backbone, **options)
        self.updates = self.add_weight(
            shape=(), initializer="zeros", name="updates", trainable=False
        )

    def call(self, views, training=False):
        return {"features": self.backbone(views[0], training=training)}

    def compute_losses(self, outputs, batch):
        loss = tf.reduce_mean(outputs["features"])
        return {"loss": loss, "largest": tf.cast(tf.reduce_max(batch["label"]), tf.float32)}

    def after_update(self, outputs, batch):
        self.updates.assign_add(tf.cast(tf.reduce_sum(batch["label"]), tf.float32))


@pytest.fixture
def counting(tiny_backbone):
    def make(**compiled):
        method = Counting(tiny_backbone())
        method.compile(optimizer=keras.optimizers.SGD(0.1), jit_compile=False, **compiled)
        return method

    return make


def test_keras_callbacks_and_logs_work_as_in_a_notebook(counting, batches):
    method = counting()
    method.prepare(8)
    seen, ends = [], []
    user = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append((batch, sorted(logs))),
        on_epoch_end=lambda epoch, logs: ends.append(epoch),
    )
    stop = keras.callbacks.EarlyStopping("loss", patience=0, min_delta=100.0)
    history = method.fit(
        batches(1), epochs=5, steps_per_epoch=3, shuffle=False, verbose=0, callbacks=[user, stop]
    )
    assert ends == [0, 1]  # the second epoch is not better by 100
    assert seen == [(batch, ["largest", "loss"]) for batch in (0, 1, 2)] * 2
    assert history.history["largest"] == [3.0, 3.0]
    assert float(method.updates) == 6 * 24  # the hook ran once a step, with the batch


def test_steps_per_execution_takes_as_many_steps(counting, batches):
    once, thrice = counting(), counting(steps_per_execution=3)
    thrice.prepare(8), once.prepare(8)
    thrice.set_weights(once.get_weights())
    for method in (once, thrice):
        method.fit(batches(1), epochs=2, steps_per_epoch=6, shuffle=False, verbose=0)
        assert int(method.optimizer.iterations) == 12
    for first, second in zip(once.get_weights(), thrice.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_metrics_are_means_over_the_epoch_and_start_anew(counting, batches):
    method = counting()
    method.prepare(8)
    losses = []
    each = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(float(logs["loss"]))
    )
    history = method.fit(
        batches(1), epochs=2, steps_per_epoch=3, shuffle=False, verbose=0, callbacks=[each]
    )
    # running means m1, m2, m3 give the steps' values: v_n = n m_n - (n - 1) m_(n-1)
    for epoch in (0, 1):
        m1, m2, m3 = losses[3 * epoch : 3 * epoch + 3]
        values = [m1, 2 * m2 - m1, 3 * m3 - 2 * m2]
        assert values == sorted(values, reverse=True)  # the loss falls, epoch by epoch
        assert history.history["loss"][epoch] == pytest.approx(np.mean(values), rel=1e-5)


def test_a_method_without_variables_says_what_to_call(counting, batches):
    with pytest.raises(ValueError, match=r"call prepare\(image_size\).*Received: counting"):
        counting().fit(batches(1), epochs=1, steps_per_epoch=1, shuffle=False, verbose=0)


def test_other_variables_are_not_the_optimizers(counting):
    method = counting()
    method.prepare(8)
    names = [v.path for v in method.encoder_variables]
    assert len(names) == 6
    assert not any("updates" in name for name in names)
