"""Training steps of torchvision's networks with lightly's heads and losses, as its examples do.

    PYTHON torch_step.py --method=simclr --size=32 --batch_size=64 --way=channels_last

Runs under a Python that has torch and lightly; a contender of `record.race`. Ways: eager;
channels_last; compile (with channels_last).
"""

import argparse
import copy
from collections.abc import Callable

import torch
import torchvision
from lightly.loss import DINOLoss, NTXentLoss, SwaVLoss
from lightly.models.modules import heads
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import SimCLRTransform
from lightly_way import Resident
from record import answer
from step_cases import (
    DINO_OUTPUTS,
    EMBEDDING,
    HIDDEN,
    LOCAL_SIZE,
    LOCAL_VIEWS,
    PROTOTYPES,
    QUEUE,
)

Views = list[torch.Tensor]
Loss = Callable[[Views], torch.Tensor]


def make_backbone(arguments: argparse.Namespace) -> tuple[torch.nn.Module, int]:
    """Torchvision's network, with the stem for small images where they are small."""
    network = getattr(torchvision.models, f"resnet{arguments.depth}")()
    width = network.fc.in_features
    network.fc = torch.nn.Identity()
    if arguments.size <= 32:
        network.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        network.maxpool = torch.nn.Identity()
    if arguments.way != "eager":
        network = network.to(memory_format=torch.channels_last)
    return network, width


class Step(torch.nn.Module):
    """One method: `forward` gives the loss of the views."""

    def __init__(self, arguments: argparse.Namespace):
        super().__init__()
        self.backbone, width = make_backbone(arguments)
        self.frozen: list[tuple[torch.nn.Module, torch.nn.Module]] = []  # pairs: network, its copy
        getattr(self, f"_make_{arguments.method}")(width)
        for _, target in self.frozen:
            deactivate_requires_grad(target)
        self.run, self.run_target = self.backbone, getattr(self, "target", None)
        if arguments.way == "compile":
            self.run = torch.compile(self.run)
            self.run_target = torch.compile(self.run_target) if self.run_target else None

    def forward(self, views: Views) -> torch.Tensor:
        """The loss."""
        return self.loss_of(views)

    def _make_simclr(self, width: int) -> None:
        self.head = heads.SimCLRProjectionHead(width, HIDDEN, EMBEDDING)
        criterion = NTXentLoss(temperature=0.1)
        self.loss_of: Loss = lambda views: criterion(*(self.head(self.run(v)) for v in views))

    def _make_moco(self, width: int) -> None:
        self.head = heads.MoCoProjectionHead(width, HIDDEN, EMBEDDING)
        self.target, self.target_head = copy.deepcopy(self.backbone), copy.deepcopy(self.head)
        self.frozen = [(self.backbone, self.target), (self.head, self.target_head)]
        criterion = NTXentLoss(temperature=0.07, memory_bank_size=(QUEUE, EMBEDDING))

        def loss_of(views: Views) -> torch.Tensor:
            query = self.head(self.run(views[0]))
            with torch.no_grad():
                key = self.target_head(self.run_target(views[1]))
            return criterion(query, key)

        self.loss_of = loss_of

    def _make_swav(self, width: int) -> None:
        self.head = heads.SwaVProjectionHead(width, HIDDEN, EMBEDDING)
        self.prototypes = heads.SwaVPrototypes(EMBEDDING, n_prototypes=PROTOTYPES)
        criterion = SwaVLoss()

        def score(view: torch.Tensor) -> torch.Tensor:
            return self.prototypes(torch.nn.functional.normalize(self.head(self.run(view)), dim=1))

        def loss_of(views: Views) -> torch.Tensor:
            self.prototypes.normalize()
            scores = [score(view) for view in views]
            return criterion(scores[:2], scores[2:])

        self.loss_of = loss_of

    def _make_dino(self, width: int) -> None:
        self.head = heads.DINOProjectionHead(width, HIDDEN, 64, DINO_OUTPUTS)
        self.target = copy.deepcopy(self.backbone)
        self.target_head = heads.DINOProjectionHead(width, HIDDEN, 64, DINO_OUTPUTS)
        self.frozen = [(self.backbone, self.target), (self.head, self.target_head)]
        criterion = DINOLoss(output_dim=DINO_OUTPUTS)

        def loss_of(views: Views) -> torch.Tensor:
            with torch.no_grad():
                teacher = [self.target_head(self.run_target(view)) for view in views[:2]]
            student = [self.head(self.run(view)) for view in views]
            return criterion(teacher, student, epoch=1)

        self.loss_of = loss_of


def fixed_views(arguments: argparse.Namespace) -> Views:
    """One batch of noise, used at every step."""
    sizes = [arguments.size] * 2
    if arguments.method in ("swav", "dino"):
        sizes += [LOCAL_SIZE] * LOCAL_VIEWS
    return [torch.rand(arguments.batch_size, 3, size, size) for size in sizes]


def loaded_views(arguments: argparse.Namespace):
    """Lightly's two views, from images in memory and two workers."""
    transform = SimCLRTransform(input_size=arguments.size, gaussian_blur=0.0, normalize=None)
    shape = [1024, arguments.size, arguments.size, 3]
    images = torch.randint(0, 256, shape, dtype=torch.uint8).numpy()
    loader = torch.utils.data.DataLoader(
        Resident(images, transform),
        batch_size=arguments.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=2,
        persistent_workers=True,
    )
    while True:
        for views, _ in loader:
            yield views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=["simclr", "moco", "swav", "dino"], required=True)
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--input", action="store_true", help="views made anew for every step")
    parser.add_argument("--way", choices=["eager", "channels_last", "compile"], required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    step = Step(arguments)
    trained = [weight for weight in step.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, weight_decay=1e-4)
    half = arguments.precision == "bfloat16"

    def views():
        if arguments.input:
            yield from loaded_views(arguments)
        fixed = fixed_views(arguments)
        while True:
            yield fixed

    def steps():
        for batch in views():
            if arguments.way != "eager":
                batch = [view.to(memory_format=torch.channels_last) for view in batch]
            for network, target in step.frozen:
                update_momentum(network, target, 0.99)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = step(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    answer(steps(), arguments.batch_size)


if __name__ == "__main__":
    main()
