"""The options of methods that take small local views beside the full-size ones (multi-crop)."""

import dataclasses

from tfcontrast.config import MethodConfig, option
from tfcontrast.methods import shared_options


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiCropConfig(MethodConfig):
    """Options of the local views; the recipe has defaults for their size and area."""

    num_local_views: int = shared_options.num_local_views(0)
    local_image_size: int = option(
        0, "Side of the local views in pixels; 0: the recipe's share of image_size.", low=0
    )
    local_crop_area_min: float | None = option(
        None, "Smallest share of the image's area in a local view.", low=0.001, high=1
    )
    local_crop_area_max: float | None = option(
        None, "Largest share of the image's area in a local view.", low=0.001, high=1
    )
