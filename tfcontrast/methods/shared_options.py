"""Options that several methods have with defaults of their own: one name, one text, one range."""

from typing import Any

from tfcontrast.config import option


def temperature(default: float) -> Any:
    """``temperature``."""
    return option(default, "Temperature of the loss.", low=1e-4)


def proj_head_mode(default: str) -> Any:
    """``proj_head_mode``."""
    return option(
        default,
        "The projector: none, linear or nonlinear.",
        choices=("none", "linear", "nonlinear"),
    )


def num_proj_layers(default: int) -> Any:
    """``num_proj_layers``."""
    return option(default, "Layers of the nonlinear projector.", low=1, high=16)


def proj_hidden_dim(default: int) -> Any:
    """``proj_hidden_dim``."""
    return option(default, "Width of the projector's hidden layers; 0: the backbone's.", low=0)


def proj_out_dim(default: int) -> Any:
    """``proj_out_dim``."""
    return option(default, "Dimensions of the embedding.", low=1)


def pred_hidden_dim(default: int) -> Any:
    """``pred_hidden_dim``."""
    return option(default, "Width of the predictor's hidden layer.", low=1)


def queue_size(default: int) -> Any:
    """``queue_size``."""
    return option(
        default, "Rows of the queue, at least the batch; 0: none, where that is possible.", low=0
    )


def num_prototypes(default: int) -> Any:
    """``num_prototypes``."""
    return option(default, "Prototypes, or clusters, of each head.", low=2)


def loss_scale(default: float) -> Any:
    """``loss_scale``."""
    return option(
        default,
        "Multiplies the loss; 2: SimCLR's released code, which sums both directions; 0.1: "
        "solo-learn's Barlow Twins.",
        low=0,
    )


def ema_decay(default: float) -> Any:
    """``ema_decay``."""
    return option(default, "What the slow copy keeps of its weights at each step.", low=0, high=1)


def ema_schedule(default: str) -> Any:
    """``ema_schedule``."""
    return option(
        default,
        "ema_decay for the whole run (constant), or from it to 1 (cosine).",
        choices=("constant", "cosine"),
    )


def num_local_views(default: int) -> Any:
    """``num_local_views``."""
    return option(
        default, "Small local views of each image beside the two full-size ones.", low=0, high=64
    )


def kmeans_iterations(default: int) -> Any:
    """``kmeans_iterations``."""
    return option(default, "Iterations of k-means at the start of each epoch.", low=1)
