"""Two-view samples a second from JPEG files of 640 x 427, beside simclr/tf2 and lightly.

    python benchmarks/jpeg_input.py --peer_python=PYTHON [--simclr_dir=CLONE]

The two photographs that scikit-learn brings, written 64 times each (quality 90) into a temporary
folder; SimCLR's full recipe with blur at 224 px. "Decoding alone" decodes each file once. The
record goes into ``jpeg_input.json``.
"""

import pathlib
import tempfile

import input_race
from PIL import Image
from sklearn.datasets import load_sample_images

COPIES, QUALITY = 64, 90


def write_photographs(folder: pathlib.Path) -> None:
    """One class folder for each photograph, in a train and a test split."""
    for split, copies in (("train", COPIES), ("test", 1)):
        for number, pixels in enumerate(load_sample_images().images):
            place = folder / split / f"photograph_{number}"
            place.mkdir(parents=True)
            for copy in range(copies):
                Image.fromarray(pixels).save(place / f"{copy:03d}.jpg", quality=QUALITY)


def main() -> None:
    arguments = input_race.arguments_of(__doc__, repetitions=7, seconds=5.0, batch_size=64)
    goals = {"simclr": 2.0, "lightly": 3.0}
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(pathlib.Path(folder))
        result = input_race.run_case(
            "224 px from JPEG, blur", arguments, size=224, blur=True, goals=goals, folder=folder
        )
    input_race.write(__file__, {"224 px from JPEG, blur": result}, arguments)


if __name__ == "__main__":
    main()
