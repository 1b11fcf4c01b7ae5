"""Images a second of training steps, beside PyTorch's networks with lightly's heads and losses.

    python benchmarks/training_step.py --peer_python=PYTHON [--cases=0,1]

SimCLR on ResNet-18 (small-image stem, 64 x 2 views of 32 pixels) and on ResNet-50 (8 x 2 views of
224), each in float32 and bfloat16; the first one also with the input, end to end; MoCo on
ResNet-18 at 224 pixels; SwAV and DINO there with 2 views of 224 and 6 of 96 pixels. Views are one
fixed batch except end to end. The record goes into ``training_step.json``.
"""

import argparse
import json
import pathlib
import sys

import record

HERE = pathlib.Path(__file__).resolve().parent
WAYS = ("eager", "channels_last", "compile")
# title: options of both sides, and the ways of PyTorch
CASES: dict[str, tuple[list[str], tuple[str, ...]]] = {
    f"{title}, {precision}": ([*words, f"--precision={precision}"], WAYS)
    for title, words in (
        ("SimCLR, ResNet-18, 32 px", ["--method=simclr", "--size=32", "--batch_size=64"]),
        (
            "SimCLR, ResNet-50, 224 px",
            ["--method=simclr", "--depth=50", "--size=224", "--batch_size=8"],
        ),
    )
    for precision in ("float32", "bfloat16")
} | {
    "MoCo, ResNet-18, 224 px": (["--method=moco", "--size=224", "--batch_size=8"], WAYS[:2]),
    "SwAV, ResNet-18, 2 x 224 + 6 x 96 px": (
        ["--method=swav", "--size=224", "--batch_size=8"],
        WAYS[:2],
    ),
    "DINO, ResNet-18, 2 x 224 + 6 x 96 px": (
        ["--method=dino", "--size=224", "--batch_size=8"],
        WAYS[:2],
    ),
}
END_TO_END = "SimCLR, ResNet-18, 32 px, end to end"


def commands_of(title: str, peer_python: str) -> dict[str, list[str]]:
    """The contenders of a case."""
    ours, theirs = [sys.executable, str(HERE / "our_step.py")], str(HERE / "torch_step.py")
    if title == END_TO_END:
        words = ["--method=simclr", "--size=32", "--batch_size=64"]
        return {
            "tfcontrast": [*ours, *words, "--input"],
            "the step alone": [*ours, *words],
            "lightly, channels_last": [
                peer_python, theirs, *words, "--input", "--way=channels_last",
            ],
        }  # fmt: skip
    words, ways = CASES[title]
    peers = {f"PyTorch, {way}": [peer_python, theirs, *words, f"--way={way}"] for way in ways}
    return {"tfcontrast": [*ours, *words], **peers}


def goals_of(title: str, peers: list[str]) -> dict[str, float]:
    """How many times as fast as each peer it shall be."""
    return {peer: 0.95 if peer == "the step alone" else 1.0 for peer in peers}


def main() -> None:
    titles = [*CASES, END_TO_END]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", required=True, help="a Python that has torch and lightly")
    parser.add_argument("--simclr_dir", default="", help="not used here")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a turn")
    parser.add_argument("--cases", default="", help="numbers of cases; empty: all")
    arguments = parser.parse_args()
    chosen = [titles[int(i)] for i in arguments.cases.split(",")] if arguments.cases else titles
    path = pathlib.Path(__file__).with_suffix(".json")
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for title in chosen:
        commands = commands_of(title, arguments.peer_python)
        before = record.load()
        rates = record.race(commands, repetitions=arguments.repetitions, seconds=arguments.seconds)
        result = record.summary(rates, goals_of(title, list(commands)[1:]))
        result["load"] = [before, record.load()]
        record.show(title, result)
        results[title] = result
        names = ("torch", "torchvision", "lightly")
        record.write(
            __file__,
            {title: results[title] for title in titles if title in results},
            settings={name: getattr(arguments, name) for name in ("repetitions", "seconds")},
            peers=record.versions(arguments.peer_python, names),
        )


if __name__ == "__main__":
    main()
