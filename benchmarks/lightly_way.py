"""Two views as lightly's users make them; runs under a Python that has torch and lightly.

    python lightly_way.py --size=32 --blur=0            # images in memory
    python lightly_way.py --size=224 --blur=1 --folder=photos

A contender of `record.race`.
"""

import argparse

import numpy as np
import torch
from lightly.transforms import SimCLRTransform
from PIL import Image
from record import answer
from torchvision.datasets import ImageFolder


class Resident(torch.utils.data.Dataset):
    """Images in memory, given as torchvision's CIFAR-10 gives them."""

    def __init__(self, images, transform):
        self._images, self._transform = images, transform

    def __len__(self):
        """How many there are."""
        return len(self._images)

    def __getitem__(self, place):
        """The views of one."""
        return self._transform(Image.fromarray(self._images[place])), 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--blur", type=int, required=True)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--folder", default="")
    arguments = parser.parse_args()
    transform = SimCLRTransform(
        input_size=arguments.size, gaussian_blur=0.5 * arguments.blur, normalize=None
    )
    if arguments.folder:
        dataset = ImageFolder(arguments.folder, transform)
    else:
        shape = [10_000, arguments.size, arguments.size, 3]
        dataset = Resident(np.random.default_rng(0).integers(0, 256, shape, np.uint8), transform)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=arguments.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
    )

    def batches():
        while True:
            yield from loader

    answer(batches(), arguments.batch_size)


if __name__ == "__main__":
    main()
