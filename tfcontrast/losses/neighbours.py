"""NNCLR: let the nearest neighbour in a support set stand in for the image itself.

Dwibedi, Aytar, Tompson, Sermanet, Zisserman: With a Little Help from My Friends: Nearest-Neighbor
Contrastive Learning of Visual Representations (2021, arXiv:2104.14548).
"""

import tensorflow as tf

from tfcontrast.losses.arguments import float_tensor
from tfcontrast.losses.stored_rows import stored_rows


def nearest_neighbours(embeddings: tf.Tensor, support: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The row of the support set with the largest dot product with each embedding.

        NN(z) = argmax_{q in support} q . z

    With unit rows in the support set this is the largest cosine, whatever the length of z. The
    loss is ``in_batch_info_nce(neighbours, predictions, gradient_to="keys")``.

    Args:
        embeddings: [b, d], any length of vector. float64 is computed in float64, everything else in
            float32.
        support: [K, d] unit rows, as they stand before this step's embeddings enter.

    Returns:
        The neighbours [b, d], rows of ``support``, and their places int32 [b] (the lowest one of
        several equals), both without gradient.

    Raises:
        ValueError: not floating-point matrices, or of unequal width.

    Example:
        >>> rows, places = nearest_neighbours(tf.constant([[0.2, 0.9]]), tf.eye(2))
        >>> rows.numpy().tolist(), places.numpy().tolist()
        ([[0.0, 1.0]], [1])
    """
    embeddings = tf.stop_gradient(float_tensor(embeddings, "embeddings", rank=2))
    support = stored_rows(support, "support", like=embeddings)
    scores = tf.matmul(embeddings, support, transpose_b=True)  # [b, K]
    places = tf.argmax(scores, axis=1, output_type=tf.int32)
    return tf.gather(support, places), places
