"""A few views of a run's first step, for a picture."""

from collections.abc import Sequence

import tensorflow as tf

from tfcontrast.augment import ViewRecipe, crop_view, distort_view, example_seeds
from tfcontrast.data.index_stream import index_stream
from tfcontrast.data.reading import make_reader, stand_ins
from tfcontrast.data.source import Source


def preview(
    source: Source,
    recipes: Sequence[ViewRecipe],
    *,
    batch_size: int,
    seed: int,
    count: int = 8,
) -> tuple[tf.Tensor, ...]:
    """The first images' views of step 0, without the pipeline: equal to its own, to rounding.

    Args:
        source: as in `train_dataset`, like the following ones.
        recipes: one for each view.
        batch_size: images per step.
        seed: the run's seed.
        count: how many images, fewer when the batch is smaller.

    Returns:
        For each recipe float32 [count, S, S, 3] in [0, 1].

    Raises:
        UserError: the batch is larger than the source, or none of its images can be read.
    """
    stream = index_stream(source.num_examples, batch_size, seed=seed)
    counters, indices = (rows[:count] for rows in next(iter(stream)))
    images = _show(source, indices)
    views = []
    for view, recipe in enumerate(recipes):
        seeds = example_seeds(seed, counters, view)
        if source.image_shape is not None:
            crops = crop_view(tf.stack(images), seeds, recipe)
        else:
            crop = tf.function(
                lambda image, own, recipe=recipe: crop_view(image[None], own[None], recipe),
                # As in the pipeline: with known sizes another kernel would round otherwise.
                [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.uint32)],
            )
            pairs = zip(images, tf.unstack(seeds), strict=True)
            crops = tf.concat([crop(image, own) for image, own in pairs], 0)
        views.append(distort_view(crops, seeds, recipe))
    return tuple(views)


def _show(source: Source, indices: tf.Tensor) -> list[tf.Tensor]:
    """The images that are shown at these places."""
    if source.images is None:
        read = make_reader(source)
        return [read(index).get_single_element()[0] for index in indices]
    table = stand_ins(source)
    places = indices.numpy() if table is None else table[indices.numpy()]
    return [tf.constant(source.images[place]) for place in places]
