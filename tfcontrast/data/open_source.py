"""From the name of a data set to a source."""

from tfcontrast.data.digits import SPLITS as DIGITS_SPLITS
from tfcontrast.data.digits import open_digits
from tfcontrast.data.folder_source import folder_splits, open_folder
from tfcontrast.data.source import Source
from tfcontrast.data.tfds_source import open_tfds, tfds_splits
from tfcontrast.errors import UserError

_FOLDER = "folder:"
MEMORY_LIMIT = 2 * 1024**3


def source_splits(
    dataset: str, *, data_dir: str | None = None, download: bool = False
) -> tuple[str, ...]:
    """The names of a data set's splits; arguments and errors as `open_source`."""
    if dataset == "digits":
        return DIGITS_SPLITS
    if dataset.startswith(_FOLDER):
        return folder_splits(_folder(dataset))
    return tfds_splits(dataset, data_dir=data_dir, download=download)


def open_source(
    dataset: str,
    split: str,
    *,
    data_dir: str | None = None,
    download: bool = False,
    seed: int = 0,
    max_bad_images: float = 0.01,
    memory_limit: int = MEMORY_LIMIT,
) -> Source:
    """Opens one split of a data set.

    Args:
        dataset: `digits`, `folder:PATH`, or a TFDS name with optional config and version,
            `name/config:version`.
        split: a name of `source_splits`; for TFDS also its syntax of parts, such as `train[:90%]`.
        data_dir: where TFDS keeps prepared data; None or empty: its default.
        download: let TFDS download and prepare what is not there.
        seed: draws the train and test share of a folder that has no test images of its own.
        max_bad_images: largest share of the images that is passed over because they cannot be
            decoded.
        memory_limit: largest size in bytes of decoded TFDS images that are kept in memory.

    Raises:
        UserError: the data set, the split or a file of it cannot be used.
    """
    if not dataset:
        raise UserError("--dataset must be digits, folder:PATH or a TFDS name. Received: ''")
    if dataset == "digits":
        return open_digits(split)
    if dataset.startswith(_FOLDER):
        return open_folder(_folder(dataset), split, seed=seed, max_bad_images=max_bad_images)
    return open_tfds(
        dataset,
        split,
        data_dir=data_dir,
        download=download,
        memory_limit=memory_limit,
        max_bad_images=max_bad_images,
    )


def _folder(dataset: str) -> str:
    path = dataset.removeprefix(_FOLDER)
    if not path:
        raise UserError("--dataset=folder:PATH needs a path. Received: 'folder:'")
    return path
