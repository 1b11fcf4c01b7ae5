"""Seconds from the command to the end of its first step, and memory over 2,000 steps, on digits.

    python benchmarks/start_and_memory.py [--methods=simclr,moco] [--steps=2000]

Each measurement is the command line itself, in a process of its own, with a clock in its loop:
``python -m tfcontrast.run --method=METHOD --dataset=digits``. Memory is what the process holds
after a step; growth is that after the last step less that after a tenth of them, by when
everything has been traced and every buffer filled. There is no peer: the goals are 12 s and 0. The
record goes into ``start_and_memory.json``.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import record

ROOT = record.ROOT
GOAL_SECONDS = 12.0
CHILD = """
import json, os, sys, time
started, path = float(sys.argv[1]), sys.argv[2]
from tfcontrast import run

seen = []
execute = run._execute  # called when TensorFlow is imported and the flags are read

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

def watched(config):
    from tfcontrast.methods.train_function import InputWait
    plain = InputWait.add

    def add(self, seconds):
        plain(self, seconds)
        seen.append((time.time() - started, held()))

    InputWait.add = add
    execute(config)

run._execute = watched
code = run.main(["tfcontrast", *sys.argv[3:]])
with open(path, "w") as file:
    json.dump(seen, file)
sys.exit(code)
"""


def run(method: str, steps: int) -> list[tuple[float, float]]:
    """Seconds since the command and MiB held, after every step."""
    with tempfile.TemporaryDirectory() as folder:
        told = pathlib.Path(folder, "seen.json")
        words = [
            f"--method={method}", "--dataset=digits", f"--train_steps={steps}", "--mode=train",
            "--monitor_epochs=0", f"--model_dir={folder}/run",
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_ENABLE_ONEDNN_OPTS": "1"}
        subprocess.run(
            [sys.executable, "-c", CHILD, str(time.time()), str(told), *words],
            check=True,
            env=environment | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.DEVNULL,
        )
        return [tuple(pair) for pair in json.loads(told.read_text())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="simclr", help="comma-separated, of the memory")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--starts", type=int, default=5)
    arguments = parser.parse_args()
    before = record.load()
    starts = [run("simclr", 1)[0][0] for _ in range(arguments.starts)]
    print("first step after", [round(s, 1) for s in starts], "s; goal", GOAL_SECONDS, flush=True)
    results: dict = {
        "start": {
            "command": "python -m tfcontrast.run --method=simclr --dataset=digits",
            "seconds": {"median": round(statistics.median(starts), 2), "all": starts},
            "goal": GOAL_SECONDS,
        },
        "memory": {},
    }
    for method in filter(None, arguments.methods.split(",")):
        held = [mib for _, mib in run(method, arguments.steps)]
        settled = held[arguments.steps // 10]
        results["memory"][method] = {
            "mib_after_a_tenth": round(settled, 1),
            "mib_after_all": round(held[-1], 1),
            "growth_mib": round(held[-1] - settled, 1),
            "peak_mib": round(max(held), 1),
            "steps": len(held),
        }
        print(method, results["memory"][method], flush=True)
    results["load"] = [before, record.load()]
    settings = {"steps": arguments.steps, "starts": arguments.starts}
    record.write(__file__, results, settings=settings, peers={})


if __name__ == "__main__":
    main()
