"""The fixed first filter of DeepCluster: image gradients instead of colours."""

import numpy as np
import tensorflow as tf

# Responses to grey rising to the left and to the top.
_HORIZONTAL = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], np.float32)


def sobel_gradients(images: tf.Tensor) -> tf.Tensor:
    """Sobel's two derivatives of the grey image (Caron et al., 2018, section 3.3).

        grey = (R + G + B) / 3,   Gx = [[1, 0, -1], [2, 0, -2], [1, 0, -1]],   Gy = Gx'

    Without it clusters of an untrained network are clusters of colours. Zeros surround the image,
    as in the released code, so its border responds even where the image is constant.

    Args:
        images: [B, H, W, 3] of any range.

    Returns:
        [B, H, W, 2], horizontal and vertical, in the images' type.
    """
    grey = tf.reduce_mean(images, axis=-1, keepdims=True)
    filters = np.stack([_HORIZONTAL, _HORIZONTAL.T], -1)[:, :, None]  # [3, 3, 1, 2]
    return tf.nn.conv2d(grey, tf.constant(filters, grey.dtype), 1, "SAME")
