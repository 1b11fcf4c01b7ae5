"""Colour jitter: brightness, contrast, saturation, hue, in an order of its own for every image."""

import tensorflow as tf

from tfcontrast.augment.color import LUMA, Planes, saturate_planes, shift_hue_planes

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def color_jitter(
    images: tf.Tensor,
    amounts: tf.Tensor,
    places: tf.Tensor,
    *,
    brightness_mode: str = "multiplicative",
    contrast_mean: str = "channel",
    saturation_mode: str = "hsv",
) -> tf.Tensor:
    """Applies the four operations of `color.py`, with a clip to [0, 1] after each.

    Images in one batch need different orders. All four operations at all four places would be four
    times the work. Here brightness, contrast and saturation, which are blends, share a stage: three
    such stages run before the one hue shift and three after it, and in each image every operation
    is live in one stage only. The stages are a loop because XLA fuses an unrolled chain into code
    that computes early stages again at every use (1.4 s for 256 images of 32 pixels; the loop takes
    milliseconds).

    Args:
        images: [B, H, W, 3] in [0, 1].
        amounts: [B, 4]: brightness, contrast and saturation factors (1 = as it is; a shift with 0 =
            as it is for additive brightness) and hue shift in turns (0 = as it is).
        places: [B, 4] int32, a permutation of 0..3: at which place each of the four operations
            happens.
        brightness_mode: "multiplicative" or "additive".
        contrast_mean: "channel" or "grey", as in `color.adjust_contrast`.
        saturation_mode: "hsv" or "grey", as in `color.adjust_saturation`.

    Returns:
        [B, H, W, 3] in [0, 1].
    """
    additive = brightness_mode == "additive"
    neutral = tf.constant([[0.0 if additive else 1.0, 1.0, 1.0]])
    cheap = places[:, :HUE]
    after_hue = cheap > places[:, HUE:]
    turns = cheap - tf.cast(after_hue, tf.int32)  # order among the cheap three

    def blends(planes: Planes, mine: tf.Tensor) -> Planes:
        def body(turn: tf.Tensor, *now: tf.Tensor) -> tuple[tf.Tensor, ...]:
            live = tf.where(mine & (turns == turn), amounts[:, :HUE], neutral)
            return turn + 1, *_blend_stage(now, live, additive, contrast_mean, saturation_mode)

        result = tf.while_loop(lambda turn, *_: turn < 3, body, (0, *planes), maximum_iterations=3)
        return result[1], result[2], result[3]

    planes: Planes = (images[..., 0], images[..., 1], images[..., 2])
    planes = blends(planes, ~after_hue)
    planes = _clip(shift_hue_planes(planes, amounts[:, HUE, None, None]))
    return tf.stack(blends(planes, after_hue), axis=-1)


def color_jitter_one(
    image: tf.Tensor,
    amounts: tf.Tensor,
    places: tf.Tensor,
    live: tf.Tensor | bool = True,
    *,
    brightness_mode: str = "multiplicative",
    contrast_mean: str = "channel",
    saturation_mode: str = "hsv",
) -> tf.Tensor:
    """`color_jitter` of one image, to rounding: each of its operations is computed once.

    Here the order is a number and not one for every image of a batch, so that XLA branches. Planes
    are one long row each: of rows of 32 pixels LLVM makes code that walks down the columns and
    collects its vectors value by value.

    Args:
        image: [1, H, W, 3] in [0, 1].
        amounts: [1, 4].
        places: [1, 4] int32.
        live: scalar bool; where False the image stays as it is, and nothing is computed.
        brightness_mode: as there.
        contrast_mean: as there.
        saturation_mode: as there.
    """
    brightness, contrast, saturation, hue = tf.unstack(amounts[0])
    # places is a permutation; this is its inverse.
    at = tf.cast(places[0][None] == tf.range(4)[:, None], tf.int32)
    operation_at = tf.reduce_sum(at * tf.range(4), axis=1)

    def brighter(planes: Planes) -> Planes:
        if brightness_mode == "additive":
            return tuple(plane + brightness for plane in planes)
        return tuple(plane * brightness for plane in planes)

    def contrasted(planes: Planes) -> Planes:
        means = [tf.reduce_mean(plane) for plane in planes]
        if contrast_mean == "grey":
            means = [_luma(tuple(means))] * 3
        return _toward(planes, tuple(means), contrast)

    def saturated(planes: Planes) -> Planes:
        if saturation_mode == "hsv":
            return saturate_planes(planes, saturation)
        return _toward(planes, (_luma(planes),) * 3, saturation)

    ways = (brighter, contrasted, saturated, lambda planes: shift_hue_planes(planes, hue))

    def body(place: tf.Tensor, *planes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # Clipped in the branch, where it is part of the operation's own pass over the planes.
        branches = [lambda way=way: _clip(way(planes)) for way in ways]
        return place + 1, *tf.switch_case(operation_at[place], branches)

    stages = tf.where(live, 4, 0)
    planes = tuple(tf.reshape(image[..., channel], [-1]) for channel in range(3))
    result = tf.while_loop(
        lambda place, *_: place < stages, body, (0, *planes), maximum_iterations=4
    )
    return tf.reshape(tf.transpose(tf.stack(result[1:])), tf.shape(image))


def _toward(planes: Planes, centre: Planes, factor: tf.Tensor) -> Planes:
    """The centre at factor 0, the image at 1."""
    return tuple(
        factor * plane + (1.0 - factor) * middle
        for plane, middle in zip(planes, centre, strict=True)
    )


def _blend_stage(
    planes: Planes, amounts: tf.Tensor, additive: bool, contrast_mean: str, saturation_mode: str
) -> Planes:
    """One operation per image: two of the three amounts are neutral, so order is no matter."""
    brightness, contrast, saturation = (
        amounts[:, i, None, None] for i in (BRIGHTNESS, CONTRAST, SATURATION)
    )
    means = [tf.reduce_mean(plane, axis=[1, 2], keepdims=True) for plane in planes]
    if contrast_mean == "grey":
        means = [_luma(tuple(means))] * 3
    gain = contrast if additive else contrast * brightness
    planes = tuple(
        gain * plane + ((1.0 - contrast) * mean + (brightness if additive else 0.0))
        for plane, mean in zip(planes, means, strict=True)
    )
    if saturation_mode == "hsv":
        # Clipped first: where another operation is live, values below 0 would limit the factor 1.
        return saturate_planes(_clip(planes), saturation)
    toward = (1.0 - saturation) * _luma(planes)
    return _clip(tuple(saturation * plane + toward for plane in planes))


def _luma(planes: Planes) -> tf.Tensor:
    return LUMA[0] * planes[0] + LUMA[1] * planes[1] + LUMA[2] * planes[2]


def _clip(planes: Planes) -> Planes:
    return tuple(tf.clip_by_value(plane, 0.0, 1.0) for plane in planes)
