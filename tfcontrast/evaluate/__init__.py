"""Evaluation of a frozen encoder: arrays in, numbers out."""

from tfcontrast.evaluate.batch_norm import reestimate_batch_norm
from tfcontrast.evaluate.clusterings import normalized_mutual_information
from tfcontrast.evaluate.embedding_quality import alignment, effective_rank, uniformity
from tfcontrast.evaluate.features import extract_features
from tfcontrast.evaluate.knn import knn_accuracy, weighted_knn
from tfcontrast.evaluate.logistic import logistic_probe
from tfcontrast.evaluate.top_k import top_k_accuracy

__all__ = [
    "alignment",
    "effective_rank",
    "extract_features",
    "knn_accuracy",
    "logistic_probe",
    "normalized_mutual_information",
    "reestimate_batch_norm",
    "top_k_accuracy",
    "uniformity",
    "weighted_knn",
]
