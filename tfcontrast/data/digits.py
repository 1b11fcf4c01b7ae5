"""The embedded data set: 1,797 real handwritten digits of 8x8 pixels, which scikit-learn carries.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998 (its test part). No network and no preparation, so a first run works anywhere.
"""

import numpy as np

from tfcontrast.data.source import Source, stratified_split
from tfcontrast.errors import UserError

SPLITS = ("train", "test")
_TEST_SHARE = 0.2
_SPLIT_SEED = 0  # the split is part of the data set: never the run's seed


def open_digits(split: str) -> Source:
    """Opens `train` (1,438 images) or `test` (359), split once and for all, stratified by class.

    Raises:
        UserError: there is no such split.
    """
    if split not in SPLITS:
        raise UserError(f"--dataset=digits has the splits {', '.join(SPLITS)}. Received: {split!r}")
    from sklearn.datasets import load_digits  # slow to import, and needed by this data set only

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    grey = np.round(digits.images * (255.0 / 16.0)).astype(np.uint8)
    train, test = stratified_split(labels, _TEST_SHARE, seed=_SPLIT_SEED)
    chosen = train if split == "train" else test
    return Source(
        name="digits",
        split=split,
        num_examples=len(chosen),
        num_classes=10,
        class_names=tuple("0123456789"),
        labels=labels[chosen],
        images=np.repeat(grey[chosen][..., None], 3, axis=-1),
    )
