"""Measures a step of a batch that memory does not hold, and writes ``micro_batch.json``.

    python benchmarks/micro_batch.py
    python benchmarks/micro_batch.py --batch=4096 --micro_batch=128 --width=0.25 --limit_gb=8

Each measurement is a process of its own, on SimCLR with a ResNet-18 and images of 32 pixels:

- ``micro``: one step of the batch with ``--micro_batch``: its largest resident memory, its time.
- ``parts``: training steps of ``--micro_batch`` images by themselves, before and after it: what
  the batch's images cost without the batch's loss.
- ``whole``: one step of the batch at once; stopped when it holds more than the limit.
- ``kept`` and ``remat``: steps of a batch of ``--remat_batch`` images at once, without and with
  ``--remat``.

Tracing is not in the times. Processor time is what counts on a machine that others share.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECORD = ROOT / "benchmarks" / "micro_batch.json"
# As the command line does.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(ROOT))


def child(options: argparse.Namespace) -> dict:
    """Takes the steps of one measurement, and gives their mean times and the largest memory."""
    import keras
    import numpy as np
    import tensorflow as tf

    from tfcontrast.methods import METHODS, Plan
    from tfcontrast.models import ResNet
    from tfcontrast.optim import make_optimizer

    sizes = {"parts": options.micro_batch, "kept": options.remat_batch}
    sizes["remat"] = sizes["kept"]
    size = sizes.get(options.child, options.batch)
    keras.utils.set_random_seed(0)
    backbone = ResNet(
        depth=18, width_multiplier=options.width, stem="cifar", zero_init_last_gamma=True,
        remat=options.child == "remat", name="backbone",
    )  # fmt: skip
    plan = Plan(batch_size=size, micro_batch=options.micro_batch if options.child == "micro" else 0)
    method = METHODS["simclr"](backbone, plan=plan)
    method.compile(
        optimizer=make_optimizer("lars", learning_rate=0.1, momentum=0.9), jit_compile=False
    )
    method.prepare(32)
    rng = np.random.default_rng(0)
    views = tuple(rng.random([size, 32, 32, 3], np.float32) for _ in range(2))
    label = np.zeros([size], np.int64)
    batches = iter(
        tf.data.Dataset.from_tensors({"views": views, "label": label, "index": label}).repeat()
    )
    del views
    method.make_train_function()
    started = time.perf_counter()
    method.train_function.get_concrete_function(batches)
    tracing = time.perf_counter() - started
    if options.child in sizes:
        method.train_function(batches)  # makes buffers
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(options.steps):
        logs = method.train_function(batches)
    loss = float(logs["loss"])
    return {
        "seconds": (time.perf_counter() - wall) / options.steps,
        "processor_seconds": (time.process_time() - processor) / options.steps,
        "tracing_seconds": tracing,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "loss": loss,
        "steps": options.steps,
    }


def resident_gb(pid: int) -> float:
    """The memory that a process holds."""
    pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def measure(options: argparse.Namespace, name: str, steps: int, limit: float = 0.0) -> dict:
    """Runs one measurement in a process; above the limit it is stopped."""
    words = [sys.executable, __file__, f"--child={name}", f"--steps={steps}"]
    for option in ("batch", "micro_batch", "remat_batch", "width"):
        words.append(f"--{option}={getattr(options, option)}")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        while limit and process.poll() is None:
            held = resident_gb(process.pid)
            if held > limit:
                process.kill()
                process.wait()
                return {"stopped_at_gb": held}
            time.sleep(0.05)
        text = process.communicate()[0]
        if process.returncode:
            raise SystemExit(f"{name} ended with {process.returncode}")
    found = json.loads(text.splitlines()[-1])
    print(name, found, flush=True)
    return found


def processor_name() -> str:
    """What the processor calls itself."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")


def main() -> None:
    """Measures everything and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--micro_batch", type=int, default=128)
    parser.add_argument("--remat_batch", type=int, default=1024)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--limit_gb", type=float, default=8.0)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options)))
        return
    import keras
    import tensorflow as tf

    load = os.getloadavg()[0]
    before = measure(options, "parts", options.steps)
    micro = measure(options, "micro", 1)
    after = measure(options, "parts", options.steps)
    whole = measure(options, "whole", 1, options.limit_gb)
    kept, remat = (measure(options, name, options.steps) for name in ("kept", "remat"))
    count = options.batch // options.micro_batch
    ratios = {
        key: micro[key] / (count * (before[key] + after[key]) / 2)
        for key in ("seconds", "processor_seconds")
    }
    record = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": "python benchmarks/micro_batch.py",
        "versions": {
            "python": platform.python_version(), "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "hardware": {
            "processor": processor_name(), "cores": os.cpu_count(), "load_before": round(load, 1),
        },
        "network": f"SimCLR, ResNet-18 of width {options.width:g}, cifar stem, 32 pixels, float32",
        "batch": options.batch,
        "micro_batch": options.micro_batch,
        "limit_gb": options.limit_gb,
        "micro": micro,
        "parts": [before, after],
        "whole": whole,
        "micro_over_parts": ratios,
        "remat": {
            "batch": options.remat_batch, "kept": kept, "remat": remat,
            "seconds_ratio": remat["seconds"] / kept["seconds"],
            "peak_ratio": remat["peak_gb"] / kept["peak_gb"],
        },
    }  # fmt: skip
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
