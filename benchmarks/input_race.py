"""The command line and the contenders that `cifar_input.py` and `jpeg_input.py` share."""

import argparse
import pathlib
import sys

import record
import simclr_way

HERE = pathlib.Path(__file__).resolve().parent


def arguments_of(doc: str, **defaults: float) -> argparse.Namespace:
    """The command line.

    Args:
        doc: the script's docstring.
        defaults: of --repetitions, --seconds and --batch_size.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--simclr_dir", default="", help="a clone of google-research/simclr")
    parser.add_argument("--peer_python", default="", help="a Python that has torch and lightly")
    parser.add_argument("--repetitions", type=int, default=int(defaults["repetitions"]))
    parser.add_argument("--seconds", type=float, default=defaults["seconds"], help="of a turn")
    parser.add_argument("--batch_size", type=int, default=int(defaults["batch_size"]))
    parser.add_argument("--no_record", action="store_true", help="only print")
    return parser.parse_args()


def run_case(
    title: str,
    arguments: argparse.Namespace,
    *,
    size: int,
    blur: bool,
    goals: dict[str, float],
    folder: str = "",
) -> dict:
    """Races all contenders over one case; gives the record of it.

    Args:
        title: printed above the result.
        arguments: from `arguments_of`.
        size: side of the views in pixels.
        blur: whether views are blurred.
        goals: "simclr" and "lightly" to how many times as fast as these ours shall be.
        folder: of photographs; empty: images in memory.
    """
    common = [f"--size={size}", f"--blur={int(blur)}", f"--batch_size={arguments.batch_size}"]
    common += [f"--folder={folder}"] if folder else []
    mine = [sys.executable, str(HERE / "tensorflow_ways.py"), *common]
    peer = simclr_way.NAME if arguments.simclr_dir else simclr_way.RESTATED
    commands = {
        "tfcontrast": [*mine, "--way=ours"],
        peer: [*mine, "--way=simclr", f"--simclr_dir={arguments.simclr_dir}"],
    }
    if arguments.peer_python:
        words = [word.replace("--folder=" + folder, f"--folder={folder}/train") for word in common]
        commands["lightly"] = [arguments.peer_python, str(HERE / "lightly_way.py"), *words]
    if folder:
        commands["decoding alone"] = [*mine, "--way=decoding"]
    before = record.load()
    rates = record.race(commands, repetitions=arguments.repetitions, seconds=arguments.seconds)
    result = record.summary(rates, {peer: goals["simclr"], "lightly": goals["lightly"]})
    result["load"] = [before, record.load()]
    record.show(title, result)
    return result


def write(script: str, results: dict, arguments: argparse.Namespace) -> None:
    """Keeps the record unless the command line says otherwise."""
    if arguments.no_record:
        return
    names = ("torch", "torchvision", "lightly")
    peers = record.versions(arguments.peer_python, names) if arguments.peer_python else {}
    settings = {name: getattr(arguments, name) for name in ("repetitions", "seconds", "batch_size")}
    record.write(script, results, settings=settings, peers=peers)
