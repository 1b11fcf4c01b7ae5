import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.methods import SimCLR, SupCon, SupConConfig


@pytest.fixture
def outputs():
    rng = np.random.default_rng(4)
    return {
        "features": tf.constant(rng.normal(size=(12, 5)), tf.float32),
        "embeddings": tf.constant(rng.normal(size=(12, 4)), tf.float32),
    }


@pytest.fixture
def batch():
    return {"label": tf.constant([0, 1, 0, 2, 1, 0], tf.int64)}


def supcon_in_loops(embeddings, labels, temperature):
    """Equation 2 in float64: the mean over positives outside of the logarithm."""
    z = np.asarray(embeddings, np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    labels = np.tile(labels, 2)
    terms = []
    for i in range(len(z)):
        others = [k for k in range(len(z)) if k != i]
        whole = sum(np.exp(z[i] @ z[k] / temperature) for k in others)
        positives = [k for k in others if labels[k] == labels[i]]
        logs = [np.log(np.exp(z[i] @ z[p] / temperature) / whole) for p in positives]
        terms.append(-np.mean(logs))
    return np.mean(terms)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_is_equation_2(tiny_backbone, outputs, batch, temperature):
    method = SupCon(tiny_backbone(), SupConConfig(temperature=temperature))
    found = method.compute_losses(outputs, batch)
    assert tuple(found) == SupCon.metric_names
    expected = supcon_in_loops(outputs["embeddings"], batch["label"], temperature)
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"supcon_variant": "in"}, {"variant": "in"}),
        ({"denominator": "one_positive"}, {"denominator": "one_positive"}),
        ({"denominator": "only_negatives"}, {"denominator": "only_negatives"}),
        ({"positives_cap": 1}, {"positives_cap": 1}),
        ({"positives_cap": 0}, {"positives_cap": 0}),
        ({"loss_temperature_scale": "temperature"}, {"scale": "temperature"}),
        ({"loss_temperature_scale": "base"}, {"scale": "base"}),
    ],
)
def test_every_option_reaches_the_loss(tiny_backbone, outputs, batch, config, options):
    def loss_of(config):
        return SupCon(tiny_backbone(), config).compute_losses(outputs, batch)["loss"]

    found = loss_of(SupConConfig(**config))
    views = tf.stack(tf.split(outputs["embeddings"], 2), 1)
    expected = losses.supcon(views, batch["label"], temperature=0.1, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert abs(float(found) - float(loss_of(SupConConfig()))) > 1e-3


def test_unique_labels_give_simclr(tiny_backbone, outputs):
    batch = {"label": tf.range(6, dtype=tf.int64)}
    found = SupCon(tiny_backbone()).compute_losses(outputs, batch)
    expected = SimCLR(tiny_backbone()).compute_losses(outputs, batch)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)


def test_the_defaults_are_the_papers():
    config = SupConConfig()
    assert (config.temperature, config.supcon_variant, config.denominator) == (0.1, "out", "all")
    assert (config.num_proj_layers, config.proj_batch_norm) == (2, False)
    assert SupCon.needs_labels
