import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import losses
from tfcontrast.methods import SimCLR, SimCLRConfig


@pytest.fixture
def outputs():
    rng = np.random.default_rng(3)
    return {
        "features": tf.constant(rng.normal(size=(12, 5)), tf.float32),
        "embeddings": tf.constant(rng.normal(size=(12, 4)), tf.float32),
    }


def nt_xent_in_loops(embeddings, temperature):
    """Section 2.1 of the paper, in float64: the mean of l(i, j) over all 2N anchors."""
    z = np.asarray(embeddings, np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    count, terms = len(z), []
    for i in range(count):
        j = (i + count // 2) % count
        others = sum(np.exp(z[i] @ z[k] / temperature) for k in range(count) if k != i)
        terms.append(-np.log(np.exp(z[i] @ z[j] / temperature) / others))
    return np.mean(terms)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_the_loss_is_the_papers_times_the_scale(tiny_backbone, outputs, temperature, scale):
    config = SimCLRConfig(temperature=temperature, loss_scale=scale)
    found = SimCLR(tiny_backbone(), config).compute_losses(outputs, {})
    assert tuple(found) == SimCLR.metric_names
    expected = nt_xent_in_loops(outputs["embeddings"], temperature)
    np.testing.assert_allclose(found["loss"], scale * expected, rtol=1e-5)
    # the bound is never scaled
    np.testing.assert_allclose(
        found["mutual_information_bound"], np.log(11) - expected, rtol=1e-4, atol=1e-5
    )
    h = np.asarray(outputs["features"], np.float64)
    spread = (h / np.linalg.norm(h, axis=1, keepdims=True)).std(0).mean()
    np.testing.assert_allclose(found["feature_std"], spread, rtol=1e-5)


@pytest.mark.parametrize("mining", ["none", "semi_hard"])
@pytest.mark.parametrize("loss", ["nt_logistic", "margin_triplet"])
def test_the_other_losses_of_table_2_get_their_options(tiny_backbone, outputs, loss, mining):
    config = SimCLRConfig(
        contrastive_loss=loss, negative_mining=mining, margin=0.3, temperature=0.2
    )
    found = SimCLR(tiny_backbone(), config).compute_losses(outputs, {})["loss"]
    z1, z2 = tf.split(outputs["embeddings"], 2)
    options = {"mining": mining, "margin": 0.3}
    if loss == "nt_logistic":
        options["temperature"] = 0.2
    np.testing.assert_allclose(found, getattr(losses, loss)(z1, z2, **options), rtol=1e-6)


def test_the_defaults_are_the_papers():
    config = SimCLRConfig()
    assert (config.temperature, config.loss_scale, config.proj_out_dim) == (0.1, 1.0, 128)
    assert (config.num_proj_layers, config.proj_batch_norm) == (2, True)
    assert not SimCLR.needs_labels
    assert SimCLR.num_views == 2


def test_embeddings_carry_the_gradient_and_metrics_do_not(tiny_backbone, outputs):
    method = SimCLR(tiny_backbone())
    z = outputs["embeddings"]
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(z)
        found = method.compute_losses({**outputs, "embeddings": z}, {})
    assert np.any(tape.gradient(found["loss"], z))
    for name in method.metric_names[1:]:
        assert tape.gradient(found[name], z) is None
