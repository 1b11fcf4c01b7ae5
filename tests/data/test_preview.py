import dataclasses

import numpy as np

from tfcontrast.augment import ViewRecipe
from tfcontrast.data import preview, train_dataset

RECIPES = (
    ViewRecipe(image_size=8, crop_probability=1.0, crop_area=(0.3, 1.0), flip_probability=0.5),
    ViewRecipe(image_size=5, crop_probability=0.8, crop_area=(0.2, 0.8), noise_stddev=0.1),
)


def test_a_preview_is_the_start_of_the_first_batch(kind, toy_source):
    source = dataclasses.replace(toy_source(kind), bad=np.arange(11) < 4)
    options = {"batch_size": 6, "seed": 5}
    batch = next(iter(train_dataset(source, RECIPES, jit_compile=kind == "resident", **options)))
    for count in (3, 50):
        views = preview(source, RECIPES, count=count, **options)
        assert len(views) == 2
        for ours, expected in zip(views, batch["views"], strict=True):
            assert ours.shape[0] == min(count, 6)
            np.testing.assert_allclose(ours, expected[:count], rtol=0, atol=1e-5)
