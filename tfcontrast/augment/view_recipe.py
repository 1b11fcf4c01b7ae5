"""What can happen to a view: the options of one view's random changes."""

import dataclasses

_CHOICES = {
    "crop_law": ("height", "area"),
    "resize_method": ("bicubic", "bilinear"),
    "brightness_mode": ("multiplicative", "additive"),
    "contrast_mean": ("channel", "grey"),
    "saturation_mode": ("hsv", "grey"),
    "blur_padding": ("zero", "reflect"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """One view's random changes, in the order in which they happen; all are off by default.

    Attributes:
        image_size: side of the view in pixels.
        crop_area: smallest and largest share of the image's area.
        crop_ratio: smallest and largest width / height.
        crop_probability: how often an image is cropped at all; else it is resized whole.
        crop_law: "height" (TensorFlow's sampler, SimCLR) or "area" (torchvision's), see `crops.py`.
        crop_min_covered: crops below this share are drawn again ("height" only).
        resize_method: "bicubic" or "bilinear".
        antialias: widen the kernel when shrinking.
        flip_probability: mirror left to right.
        rotate_degrees: turn by up to this angle to either side.
        translate: shift by up to this share of the side.
        zoom: scale by 1 +- up to this share.
        shear: slant by up to this many pixels per pixel.
        jitter_probability: colour jitter; its four operations come in random order with a clip to
            [0, 1] after each.
        brightness: factor in 1 +- this, or shift of +- this.
        contrast: factor in 1 +- this, at least 0.
        saturation: factor in 1 +- this, at least 0.
        hue: shift of +- this many turns.
        brightness_mode: "multiplicative" or "additive".
        contrast_mean: "channel" or "grey".
        saturation_mode: "hsv" or "grey".
        grayscale_probability: drop the colour.
        grayscale_first: before the jitter and not after it: the hue's shift then leaves the greys
            of such an image alone, instead of changing how bright each colour becomes.
        blur_probability: Gaussian blur.
        blur_sigma: range of its width in pixels, drawn for every image.
        blur_kernel_size: odd number of taps; 0 takes a tenth of the side, made odd.
        blur_padding: "zero" or "reflect", see `gaussian_blur`.
        solarize_probability: invert the values from 0.5 up.
        erase_probability: fill a square with grey.
        erase_side: range of the square's side as a share of the view's.
        noise_stddev: largest width of added white noise; the width is uniform below it.
    """

    image_size: int
    crop_area: tuple[float, float] = (1.0, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_probability: float = 0.0
    crop_law: str = "height"
    crop_min_covered: float = 0.0
    resize_method: str = "bicubic"
    antialias: bool = False
    flip_probability: float = 0.0
    rotate_degrees: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    jitter_probability: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    brightness_mode: str = "multiplicative"
    contrast_mean: str = "channel"
    saturation_mode: str = "hsv"
    grayscale_probability: float = 0.0
    grayscale_first: bool = False
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_kernel_size: int = 0
    blur_padding: str = "zero"
    solarize_probability: float = 0.0
    erase_probability: float = 0.0
    erase_side: tuple[float, float] = (0.1, 0.3)
    noise_stddev: float = 0.0

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise ValueError(f"image_size must be positive. Received: {self.image_size}")
        for name, value in dataclasses.asdict(self).items():
            if name.endswith("_probability") and not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be in [0, 1]. Received: {value}")
            if isinstance(value, tuple) and not 0.0 < value[0] <= value[1]:
                raise ValueError(
                    f"{name} must be (low, high) with 0 < low <= high. Received: {value}"
                )
            if isinstance(value, float) and value < 0.0:
                raise ValueError(f"{name} must not be negative. Received: {value}")
            if name in _CHOICES and value not in _CHOICES[name]:
                accepted = " or ".join(_CHOICES[name])
                raise ValueError(f"{name} must be {accepted}. Received: {value!r}")
        if self.crop_area[1] > 1.0:
            raise ValueError(f"crop_area must not exceed 1. Received: {self.crop_area}")
