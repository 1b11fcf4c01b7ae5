"""The worked example whose values methods.md gives to ten digits, and random batches."""

import numpy as np
import pytest


@pytest.fixture
def random_views():
    """A function (b, d, seed) -> z1, z2 float64, correlated as two views of an image are."""

    def make(b, d, seed=0):
        rng = np.random.default_rng(seed)
        common = rng.normal(size=(b, d))
        return tuple(3 * (common + 0.8 * rng.normal(size=(b, d))) for _ in range(2))

    return make


@pytest.fixture
def check_gradient():
    """Compares tf's float64 gradient with central differences along random directions."""
    import tensorflow as tf

    def check(loss, *arrays, tolerance=1e-6):
        tensors = [tf.constant(a, tf.float64) for a in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(*tensors)
        gradients = tape.gradient(value, tensors)
        rng, step = np.random.default_rng(1), 1e-5
        assert any(np.abs(g).max() > 1e-4 for g in gradients)
        for n, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
            for _ in range(4):
                direction = rng.normal(size=array.shape)
                ends = []
                for sign in (1, -1):
                    moved = list(arrays)
                    moved[n] = array + sign * step * direction
                    ends.append(float(loss(*[tf.constant(a, tf.float64) for a in moved])))
                numeric = (ends[0] - ends[1]) / (2 * step)
                analytic = float(np.sum(direction * gradient.numpy()))
                assert abs(numeric - analytic) < tolerance * max(1, abs(analytic))

    return check


@pytest.fixture
def assert_finite():
    """Value and gradients of a loss are finite in float32, eagerly or (jit) under XLA."""
    import tensorflow as tf

    def check(loss, *arrays, jit=False):
        tensors = [tf.constant(np.asarray(a), tf.float32) for a in arrays]

        def step(*rows):
            with tf.GradientTape() as tape:
                tape.watch(rows)
                value = loss(*rows)
            return value, tape.gradient(value, rows)

        value, gradients = (tf.function(step, jit_compile=True) if jit else step)(*tensors)
        assert np.isfinite(value.numpy())
        assert all(np.isfinite(g.numpy()).all() for g in gradients)
        return float(value), [g.numpy() for g in gradients]

    return check


@pytest.fixture
def small_tiles(monkeypatch):
    """Every loss that can works in tiles of 4 x 4 logits, or of as many as the call says."""
    from tfcontrast.losses import tiled_softmax

    def use(size=4):
        monkeypatch.setattr(tiled_softmax, "TILED_LOGITS", 1)
        monkeypatch.setattr(tiled_softmax, "TILE", size)

    use()
    return use


@pytest.fixture
def value_and_gradients():
    """A function (loss, *arrays) -> numpy value and gradients, eagerly or in a graph."""
    import tensorflow as tf

    def run(loss, *arrays, dtype="float64", compiled=None):
        tensors = [tf.constant(a, dtype) for a in arrays]

        def step(*rows):
            with tf.GradientTape() as tape:
                tape.watch(rows)
                value = loss(*rows)
            return value, tape.gradient(value, rows)

        if compiled is not None:
            step = tf.function(step, jit_compile=compiled == "xla")
        value, gradients = step(*tensors)
        return [value.numpy(), *(None if g is None else g.numpy() for g in gradients)]

    return run
