"""NT-Xent and its gradient: ours in tiles, the plain TensorFlow form, and lightly's.

    python benchmarks/nt_xent.py --peer_python=<a python with torch and lightly>
    python benchmarks/nt_xent.py --peer_python=... --batch=1024 --repetitions=7

Each contender is a process of its own and they take turns, so that whatever else the machine does
disturbs all alike. Then the tiled loss runs on ``--memory_batch`` images in one more process, which
tells how far its resident memory rose. The record goes into ``nt_xent.json`` beside this script.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

import record

TEMPERATURE = 0.1
GOALS = {"lightly": 2.0}


def torch_steps(batch: int, dim: int):
    """Losses and gradients of lightly's NTXentLoss, for ever."""
    import torch
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(temperature=TEMPERATURE)
    views = [torch.randn(batch, dim, requires_grad=True) for _ in range(2)]
    while True:
        for view in views:
            view.grad = None
        value = loss(*views)
        value.backward()
        yield value.item(), views[0].grad[0, 0].item()


def tensorflow_steps(batch: int, dim: int, *, tiled: bool):
    """Losses and gradients of ours, for ever."""
    import tensorflow as tf

    from tfcontrast.losses import nt_xent, tiled_softmax

    tiled_softmax.TILED_LOGITS = 0 if tiled else sys.maxsize

    @tf.function
    def step(z1, z2):
        with tf.GradientTape() as tape:
            tape.watch([z1, z2])
            value = nt_xent(z1, z2, temperature=TEMPERATURE)
        return value, tape.gradient(value, [z1, z2])

    views = [tf.random.normal([batch, dim], seed=seed) for seed in range(2)]
    while True:
        value, gradients = step(*views)
        yield float(value), float(gradients[0][0, 0])


def measure_memory(batch: int, dim: int) -> None:
    """Prints by how much the peak of resident memory rises in a step, and its seconds."""
    next(tensorflow_steps(1024, dim, tiled=True))  # whatever TensorFlow allocates only once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    next(tensorflow_steps(batch, dim, tiled=True))
    seconds = time.perf_counter() - start
    rise = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"extra_memory_mib": round(rise), "seconds": round(seconds, 1)}))


def command(python: str, contender: str, batch: int, dim: int) -> list[str]:
    """How a contender is started."""
    words = [python, __file__, f"--contender={contender}", f"--batch={batch}", f"--dim={dim}"]
    return [str(word) for word in words]


def contend(contender: str, batch: int, dim: int) -> None:
    """What a contender's process does."""
    if contender == "memory":
        measure_memory(batch, dim)
    elif contender == "lightly":
        record.answer(torch_steps(batch, dim), batch)
    else:
        record.answer(tensorflow_steps(batch, dim, tiled=contender == "tiled"), batch)


def compare(arguments: argparse.Namespace) -> dict:
    """Lets all contenders race."""
    pythons = {"tiled": sys.executable, "lightly": arguments.peer_python, "dense": sys.executable}
    commands = {
        name: command(python, name, arguments.batch, arguments.dim)
        for name, python in pythons.items()
        if python
    }
    before = record.load()
    rates = record.race(commands, repetitions=arguments.repetitions, seconds=arguments.seconds)
    result = record.summary(rates, GOALS)
    result["load"] = [before, record.load()]
    record.show(f"{arguments.batch} images x 2 views x {arguments.dim}, loss and gradient", result)
    return result


def memory_of(batch: int, dim: int) -> dict:
    """Extra memory of the tiled loss, and what a single matrix of its logits would take."""
    words = command(sys.executable, "memory", batch, dim)
    environment = os.environ | {"PYTHONPATH": str(record.ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    told = subprocess.run(
        words, stdout=subprocess.PIPE, text=True, check=True, env=environment
    ).stdout
    found = json.loads(told.splitlines()[-1])
    found["one_matrix_of_logits_mib"] = (2 * batch) ** 2 * 4 // 2**20
    print(f"{batch} images x 2 views x {dim}: {found}")
    return found


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer_python", default="", help="a python with torch and lightly")
    parser.add_argument("--batch", type=int, default=4096, help="images, of two views each")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of a turn")
    parser.add_argument("--memory_batch", type=int, default=32768, help="0: no memory is measured")
    parser.add_argument("--contender", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        contend(arguments.contender, arguments.batch, arguments.dim)
        return
    results = {"speed": compare(arguments)}
    if arguments.memory_batch:
        results["memory"] = memory_of(arguments.memory_batch, arguments.dim)
    names = ("batch", "dim", "repetitions", "seconds", "memory_batch")
    peer = arguments.peer_python
    record.write(
        __file__,
        results,
        settings={name: getattr(arguments, name) for name in names} | {"temperature": TEMPERATURE},
        peers=record.versions(peer, ["torch", "lightly"]) if peer else {},
    )


if __name__ == "__main__":
    main()
