"""Methods whose encoder runs its blocks again on the way back."""

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.methods import Plan
from tfcontrast.methods.micro_batch import step_gradients
from tfcontrast.models import ResNet, VisionTransformer


def transformer(remat, dtype):
    return VisionTransformer(
        width=8, depth=2, num_heads=2, patch_size=4, image_size=8, drop_path_rate=0.5,
        dtype=dtype, remat=remat, name="backbone",
    )  # fmt: skip


def residual(remat, dtype):
    return ResNet(
        depth=10, width_multiplier=1 / 16, stem="cifar", dtype=dtype, remat=remat, name="backbone"
    )


# Every two of these come together once.
@pytest.mark.parametrize(
    ("name", "micro_batch", "encoder"),
    [
        ("simclr", 0, transformer),
        ("simclr", 4, residual),
        ("byol", 0, residual),
        ("byol", 4, transformer),
    ],
)
def test_a_step_is_that_of_kept_activations(make_method, batches, encoder, micro_batch, name):
    plan = Plan(batch_size=16, total_steps=40, seed=3, micro_batch=micro_batch)
    found = []
    for remat in (False, True):
        method = make_method(
            name, plan=plan, classes=0, backbone=lambda dtype, r=remat: encoder(r, dtype)
        )
        batch = next(iter(batches(method.num_views, size=16)))

        @tf.function
        def step(batch, method=method):
            return step_gradients(method, batch["views"], batch)[1:]

        losses, gradients = step(batch)
        named = zip(method.encoder_variables, gradients, strict=True)
        found.append(
            {v.path: np.asarray(g) for v, g in named}
            | {v.path: v.numpy() for v in method.non_trainable_variables}
            | {"loss": losses["loss"].numpy()}
        )
    for key, value in found[0].items():
        least = 1e-3 * np.abs(value).max(initial=1e-2)
        np.testing.assert_allclose(found[1][key], value, atol=least, err_msg=key)
