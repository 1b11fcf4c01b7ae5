"""The share of a training step that is spent in oneDNN's kernels, beside PyTorch's.

    python benchmarks/onednn_kernels.py --peer_python=PYTHON [--cases=0,4]

Both libraries name every kernel of oneDNN that they call and its time (`ONEDNN_VERBOSE`). Cases are
those of `training_step.py`; PyTorch runs as channels_last, ours one operation at a time, since
times of kernels that run side by side cannot be added. It keeps no record: it tells what a race can
still be won by.
"""

import argparse
import collections
import json
import os
import subprocess
from collections.abc import Sequence

import record
from training_step import CASES, commands_of

WATCHED = {"ONEDNN_VERBOSE": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
CONTENDERS = ("tfcontrast", "PyTorch, channels_last")
# Views of an image that pass the first convolution with a gradient.
VIEWS = {"simclr": 2, "moco": 1, "swav": 8, "dino": 8}


def option(command: Sequence[str], name: str) -> str:
    """A flag's value."""
    return next(word for word in command if word.startswith(f"--{name}=")).partition("=")[2]


def kernels(command: Sequence[str], seconds: float) -> tuple[float, collections.Counter]:
    """Runs a contender of `record.answer` for one question.

    Returns:
        Milliseconds of a step, and those of them that each kind of kernel took.
    """
    told = subprocess.run(
        command,
        input=f"{seconds}\n",
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | WATCHED | {"PYTHONPATH": str(record.ROOT)},
    ).stdout.splitlines()
    answers = [number for number, line in enumerate(told) if line.startswith("{")]
    found: collections.Counter = collections.Counter()
    passed = 0
    for line in told[answers[0] :]:
        if ",exec,cpu," not in line:
            continue
        kind, _, way, *_, shape, milliseconds = line.split(",")[5:]
        found[f"{kind} {way}" if kind == "convolution" else kind] += float(milliseconds)
        if kind == "convolution" and way == "backward_weights" and "_ic3oc" in shape:
            passed += int(shape.split("_")[0].removeprefix("mb"))
    images = int(option(command, "batch_size"))
    steps = passed / images / VIEWS[option(command, "method")]
    rate = json.loads(told[answers[-1]])["rate"]
    return 1e3 * images / rate, collections.Counter({k: v / steps for k, v in found.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", required=True, help="a Python that has torch and lightly")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--cases", default="0,4", help="numbers of cases of training_step.py")
    arguments = parser.parse_args()
    for title in (list(CASES)[int(i)] for i in arguments.cases.split(",")):
        commands = commands_of(title, arguments.peer_python)
        for name in CONTENDERS:
            step, found = kernels(commands[name], arguments.seconds)
            convolutions = sum(v for k, v in found.items() if k.startswith("convolution"))
            print(
                f"{title}, {name}: {step:.0f} ms a step, {convolutions:.0f} ms "
                f"({convolutions / step:.1%}) in convolutions",
                flush=True,
            )
            for kind, milliseconds in found.most_common(8):
                print(f"    {kind:32s} {milliseconds:8.1f} ms", flush=True)


if __name__ == "__main__":
    main()
