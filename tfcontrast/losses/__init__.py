"""Losses: pure functions of embeddings, one family per file, in float32 (float64 stays)."""

from tfcontrast.losses.cross_entropy import cross_entropy
from tfcontrast.losses.diagnostics import contrastive_metrics, feature_std
from tfcontrast.losses.margin_triplet import margin_triplet
from tfcontrast.losses.nt_logistic import nt_logistic
from tfcontrast.losses.nt_xent import nt_xent
from tfcontrast.losses.supcon import supcon
from tfcontrast.losses.unit_rows import unit_rows

__all__ = [
    "contrastive_metrics",
    "cross_entropy",
    "feature_std",
    "margin_triplet",
    "nt_logistic",
    "nt_xent",
    "supcon",
    "unit_rows",
]
