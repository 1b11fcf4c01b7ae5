"""Losses: pure functions of embeddings, one family per file, in float32 (float64 stays)."""

from tfcontrast.losses.barlow_twins import barlow_twins, barlow_twins_terms
from tfcontrast.losses.cluster import cluster_cross_entropy
from tfcontrast.losses.cosine import cosine_regression
from tfcontrast.losses.cross_entropy import cross_entropy
from tfcontrast.losses.dense import dense_rows, match_locations
from tfcontrast.losses.diagnostics import contrastive_metrics, effective_channels, feature_std
from tfcontrast.losses.dino import (
    dino_loss,
    dino_metrics,
    teacher_probabilities,
    update_center,
)
from tfcontrast.losses.info_nce import (
    contrastive_accuracy,
    in_batch_info_nce,
    in_batch_logits,
    info_nce,
    info_nce_logits,
)
from tfcontrast.losses.instance_nce import (
    estimate_log_normalizer,
    full_softmax,
    nce,
    sampled_softmax,
)
from tfcontrast.losses.margin_triplet import margin_triplet
from tfcontrast.losses.nce_with_accuracy import (
    in_batch_info_nce_with_accuracy,
    info_nce_with_accuracy,
)
from tfcontrast.losses.neighbours import nearest_neighbours
from tfcontrast.losses.nt_logistic import nt_logistic
from tfcontrast.losses.nt_xent import nt_xent
from tfcontrast.losses.sinkhorn import sinkhorn, swav_loss
from tfcontrast.losses.supcon import supcon
from tfcontrast.losses.unit_rows import unit_rows
from tfcontrast.losses.vicreg import vicreg, vicreg_terms

__all__ = [
    "barlow_twins",
    "barlow_twins_terms",
    "cluster_cross_entropy",
    "contrastive_accuracy",
    "contrastive_metrics",
    "cosine_regression",
    "cross_entropy",
    "dense_rows",
    "dino_loss",
    "dino_metrics",
    "effective_channels",
    "estimate_log_normalizer",
    "feature_std",
    "full_softmax",
    "in_batch_info_nce",
    "in_batch_info_nce_with_accuracy",
    "in_batch_logits",
    "info_nce",
    "info_nce_logits",
    "info_nce_with_accuracy",
    "margin_triplet",
    "match_locations",
    "nce",
    "nearest_neighbours",
    "nt_logistic",
    "nt_xent",
    "sampled_softmax",
    "sinkhorn",
    "supcon",
    "swav_loss",
    "teacher_probabilities",
    "unit_rows",
    "update_center",
    "vicreg",
    "vicreg_terms",
]
