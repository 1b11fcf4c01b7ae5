"""What the benchmarks share: contenders in processes of their own, a race, and its record.

Needs the standard library only, so that a contender can run under another Python.
"""

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata

ROOT = pathlib.Path(__file__).resolve().parents[1]
_NOTE = (
    "contenders take turns on one machine; medians over the repetitions, ratios of the runs of one "
    "repetition; load is the 1-minute load average before and after: above the number of cores, "
    "other jobs disturbed the rates, and the ratios less"
)


def answer(batches: Iterator, images: int) -> None:
    """A contender: measures its rate whenever it is asked, until there is nothing more to read.

    A question is a line with seconds. Buffers that filled while the others ran are emptied first.

    Args:
        batches: goes on for ever; an element counts when it is there.
        images: of a batch.
    """
    next(batches)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        seconds = float(line)
        start = time.perf_counter()
        while time.perf_counter() - start < seconds / 3:
            next(batches)
        start, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds or count < 2:
            next(batches)
            count += 1
        print(json.dumps({"rate": count * images / passed}), flush=True)


def race(
    commands: dict[str, Sequence[str]], *, repetitions: int, seconds: float
) -> dict[str, list[float]]:
    """Starts every contender once and lets them take turns.

    Args:
        commands: name to the command of a process that calls `answer`.
        repetitions: turns of each.
        seconds: measured in a turn.

    Returns:
        Images a second of every turn.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    running = {
        name: subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for name, command in commands.items()
    }
    rates: dict[str, list[float]] = {name: [] for name in commands}
    try:
        for name in running:
            _ask(name, running[name], "")
        for _ in range(repetitions):
            for name, process in running.items():
                rates[name].append(_ask(name, process, f"{seconds}\n")["rate"])
    finally:
        for process in running.values():
            process.communicate()  # closes its input, which ends it
    return rates


def _ask(name: str, process: subprocess.Popen, question: str) -> dict:
    asked, told = process.stdin, process.stdout
    if asked is None or told is None:
        raise ValueError(f"a contender needs pipes. Received: {name}")
    asked.write(question)
    asked.flush()
    for line in told:
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit(f"{name} ended without an answer")


def summary(rates: dict[str, list[float]], goals: dict[str, float]) -> dict:
    """Medians, and how many times as fast the first contender is as each of the others.

    With the day, the commit and the number of turns: a record can hold cases of several days.
    """
    ours, *peers = rates
    result: dict = {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "turns": len(rates[ours]),
        "images_per_second": {k: _spread(v) for k, v in rates.items()},
        "ratio": {},
    }
    for peer in peers:
        times = [mine / theirs for mine, theirs in zip(rates[ours], rates[peer], strict=True)]
        result["ratio"][peer] = _spread(times)
        if peer in goals:
            result["ratio"][peer]["goal"] = goals[peer]
    return result


def _commit() -> str:
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


def _spread(values: list[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def number(rate: float) -> str:
    """A rate as people read it."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def show(title: str, result: dict) -> None:
    """Prints a summary."""
    print(title)
    for name, rate in result["images_per_second"].items():
        middle, least, most = (number(rate[key]) for key in ("median", "least", "most"))
        line = f"  {name:34s} {middle:>9s} /s ({least} to {most})"
        if name in result["ratio"]:
            ratio = result["ratio"][name]
            line += f"   ours {ratio['median']:.2f}x ({ratio['least']:.2f} to {ratio['most']:.2f})"
            line += f", goal {ratio['goal']:g}x" if "goal" in ratio else ""
        print(line, flush=True)


def versions(python: str, names: Sequence[str]) -> dict[str, str]:
    """Versions of packages, as another Python sees them."""
    code = (
        "import json, sys; from importlib import metadata; "
        "print(json.dumps({n: metadata.version(n) for n in sys.argv[1:]}))"
    )
    told = subprocess.run(
        [python, "-c", code, *names], capture_output=True, text=True, check=True
    ).stdout
    return json.loads(told)


def write(script: str, results: dict, *, settings: dict, peers: dict[str, str]) -> None:
    """Writes a script's record beside it.

    Args:
        script: its ``__file__``.
        results: by case.
        settings: what the command line said, without paths.
        peers: versions of the peers' packages.
    """
    path = pathlib.Path(script).resolve().with_suffix(".json")
    record = {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "hardware": hardware(),
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("tensorflow", "keras")},
            **peers,
        },
        "settings": settings,
        "note": _NOTE,
        "results": results,
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def hardware() -> str:
    """The processor, its cores that may be used, and the memory."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}, {cores} cores, {memory:.0f} GiB"


def load() -> float:
    """The 1-minute load average."""
    return round(os.getloadavg()[0], 1)
