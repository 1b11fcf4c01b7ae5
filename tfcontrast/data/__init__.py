"""Sources of images, the order of training and the input pipeline."""

from tfcontrast.data.bad_images import plain_errors
from tfcontrast.data.eval_pipeline import eval_dataset
from tfcontrast.data.index_stream import index_stream
from tfcontrast.data.open_source import open_source, source_splits
from tfcontrast.data.pipeline import steps_per_epoch, train_dataset
from tfcontrast.data.preview import preview
from tfcontrast.data.source import Source, split_holdout, stratified_split
from tfcontrast.data.view_making import view_maker

__all__ = [
    "Source",
    "eval_dataset",
    "index_stream",
    "open_source",
    "plain_errors",
    "preview",
    "source_splits",
    "split_holdout",
    "steps_per_epoch",
    "stratified_split",
    "train_dataset",
    "view_maker",
]
