"""Contrastive and self-supervised learning of image representations in TensorFlow and Keras 3."""

__version__ = "0.1.0"
