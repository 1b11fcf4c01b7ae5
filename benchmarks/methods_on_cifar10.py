"""Runs every method's recipe for a small machine on CIFAR-10 and writes the README's table.

    python benchmarks/methods_on_cifar10.py                     # every recipe without a record
    python benchmarks/methods_on_cifar10.py --methods=byol,moco --seeds=0,1 --again
    python benchmarks/methods_on_cifar10.py --table             # only writes the table

A recipe is ``flags/cifar10/<method>_cpu.flags``. Each runs whole, as a user would run it, and is
measured at its last step by the command itself; a record goes into ``methods_on_cifar10.json``
beside this script as soon as its run has ended, so that the script can be stopped and started
again. The untrained network is measured once for each encoder and seed: the first such run
measures its baselines too.
"""

import argparse
import json
import math
import pathlib
import platform
import resource
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORDS = ROOT / "benchmarks" / "methods_on_cifar10.json"
README = ROOT / "README.md"
START, END = "<!-- methods on cifar10 -->", "<!-- end of methods on cifar10 -->"
# Gains below this are shown with a second seed.
SURE = 12.0
# What makes two untrained networks the same one.
ENCODER = (
    "resnet_depth", "width_multiplier", "stem", "shortcut", "image_size", "sobel", "backbone",
    "input_normalization", "holdout_fraction",
)  # fmt: skip


def recipes() -> dict[str, pathlib.Path]:
    """Method name to its recipe."""
    found = sorted((ROOT / "flags" / "cifar10").glob("*_cpu.flags"))
    named = {path.name.removesuffix("_cpu.flags"): path for path in found}
    return {name: path for name, path in named.items() if "few_labels" not in name}


def read_records() -> list[dict]:
    """What has been measured so far."""
    return json.loads(RECORDS.read_text()) if RECORDS.exists() else []


def git(*words: str) -> str:
    """What git says."""
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def options_of(path: pathlib.Path) -> dict[str, str]:
    """The options of a recipe."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.removeprefix("--").split("=", 1) for line in lines if line.startswith("--"))


def encoder_of(path: pathlib.Path, seed: int) -> str:
    """One name for each untrained network."""
    options = options_of(path)
    named = [f"{name}={options[name]}" for name in ENCODER if name in options]
    return " ".join([*named, f"seed={seed}"])


def processor_seconds() -> float:
    """What the runs have used so far, over all cores; other work beside them does not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(method: str, path: pathlib.Path, seed: int, folder: pathlib.Path) -> dict:
    """Runs one recipe, and gives its record."""
    encoder = encoder_of(path, seed)
    # Not in the record that this one replaces.
    others = [r for r in read_records() if (r["method"], r["seed"]) != (method, seed)]
    known = {record["encoder"] for record in others if record["untrained"] is not None}
    words = [
        sys.executable, "-m", "tfcontrast.run", f"--flagfile={path.relative_to(ROOT)}",
        f"--seed={seed}", f"--model_dir={folder}",
        f"--eval_baselines={str(encoder not in known).lower()}",
    ]  # fmt: skip
    commit = git("rev-parse", "--short", "HEAD")
    changed = "+" if git("status", "--porcelain", "--untracked-files=no", "tfcontrast") else ""
    started, used = time.perf_counter(), processor_seconds()
    subprocess.run(words, cwd=ROOT, check=True)
    seconds, used = time.perf_counter() - started, processor_seconds() - used
    result = json.loads((folder / "result.json").read_text())
    trained = result["train"]
    values: dict[str, dict[str, float]] = {}
    for record in result["evaluation"]:
        kind = "trained" if record["encoder"].startswith(method) else record["encoder"]
        values.setdefault(kind, {})[record["metric"]] = record["value"]
    last = trained["last_epoch"]
    width = 512 * float(options_of(path)["width_multiplier"])
    return {
        "method": method,
        "seed": seed,
        "recipe": path.relative_to(ROOT).as_posix(),
        "encoder": encoder,
        "knn": values["trained"]["knn_top1"],
        "probe": values["trained"]["linear_top1"],
        "untrained": values.get("untrained network", {}).get("knn_top1"),
        "untrained_probe": values.get("untrained network", {}).get("linear_top1"),
        "pixels": values.get("raw pixels", {}).get("knn_top1"),
        "spread": last["feature_std"] * math.sqrt(width),
        "steps": trained["steps"],
        "minutes": seconds / 60,
        "cpu_minutes": used / 60,
        "commit": commit + changed,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def table(records: list[dict]) -> str:
    """The README's table."""
    untrained = {r["encoder"]: r for r in records if r["untrained"] is not None}
    lines = [
        "| `--flagfile=` | seed | kNN top-1 | untrained | gain | probe top-1 | spread | steps "
        "| minutes | CPU minutes | commit |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(records, key=lambda r: (r["method"], r["seed"])):
        start = untrained[r["encoder"]]["untrained"]
        used = f"{r['cpu_minutes']:.1f}" if "cpu_minutes" in r else "-"
        lines.append(
            f"| [{r['recipe']}]({r['recipe']}) | {r['seed']} | {100 * r['knn']:.1f} "
            f"| {100 * start:.1f} | {100 * (r['knn'] - start):+.1f} | {100 * r['probe']:.1f} "
            f"| {r['spread']:.2f} | {r['steps']:,} | {r['minutes']:.1f} "
            f"| {used} | {r['commit']} |"
        )
    return "\n".join(lines)


def write_table(records: list[dict]) -> None:
    """Puts the table into the README, between its markers."""
    text = README.read_text(encoding="utf-8")
    before, rest = text.split(START)
    README.write_text(
        f"{before}{START}\n{table(records)}\n{END}{rest.split(END)[1]}", encoding="utf-8"
    )


def measure(method: str, path: pathlib.Path, seed: int, runs: pathlib.Path, again: bool) -> dict:
    """Runs one recipe unless there is a record of it, keeps the record and writes the table."""
    found = [r for r in read_records() if (r["method"], r["seed"]) == (method, seed)]
    if found and not again:
        return found[0]
    record = run(method, path, seed, runs / f"{method}_seed{seed}")
    # Read only now: another one of these scripts may have written meanwhile.
    kept = [r for r in read_records() if (r["method"], r["seed"]) != (method, seed)]
    records = sorted([*kept, record], key=lambda r: (r["method"], r["seed"]))
    RECORDS.write_text(json.dumps(records, indent=1) + "\n")
    write_table(records)
    return record


def main() -> None:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", default="", help="comma-separated; empty: all recipes")
    parser.add_argument("--seeds", default="0", help="comma-separated")
    parser.add_argument("--runs_dir", default="runs/methods_on_cifar10", type=pathlib.Path)
    parser.add_argument("--again", action="store_true", help="measure also what has a record")
    parser.add_argument("--one_seed", action="store_true", help="no second one for small gains")
    parser.add_argument("--table", action="store_true", help="only write the README's table")
    arguments = parser.parse_args()
    if arguments.table:
        write_table(read_records())
        return
    known = recipes()
    methods = arguments.methods.split(",") if arguments.methods else sorted(known)
    unknown = sorted(set(methods) - known.keys())
    if unknown:
        parser.error(f"--methods must be of {', '.join(known)}. Received: {', '.join(unknown)}")
    for method in methods:
        for seed in map(int, arguments.seeds.split(",")):
            record = measure(method, known[method], seed, arguments.runs_dir, arguments.again)
            start = {r["encoder"]: r["untrained"] for r in read_records() if r["untrained"]}
            gain = 100 * (record["knn"] - start[record["encoder"]])
            print(f"{method}, seed {seed}: kNN {100 * record['knn']:.1f} % ({gain:+.1f})")
            if gain < SURE and seed == 0 and not arguments.one_seed:
                measure(method, known[method], 1, arguments.runs_dir, arguments.again)


if __name__ == "__main__":
    main()
