"""Measures every claim of speed anew, one after the other, and writes the table of README.md.

    python benchmarks/run_all.py --peer_python=PYTHON [--simclr_dir=CLONE]
    python benchmarks/run_all.py --table            # only writes the table

Other arguments go to every script. Nothing else should run on the machine meanwhile.
"""

import json
import pathlib
import subprocess
import sys

from record import number

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = ("cifar_input", "jpeg_input", "training_step")
START, END = "<!-- table -->", "<!-- end of table -->"


def rows(script: str) -> list[list[str]]:
    """The table's rows for one record: a case and a peer each."""
    path = HERE / f"{script}.json"
    if not path.exists():
        return []
    record = json.loads(path.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    found = []
    for case, result in record["results"].items():
        rates = result["images_per_second"]
        mine = next(iter(rates.values()))["median"]
        for peer, ratio in result["ratio"].items():
            found.append(
                [
                    case,
                    peer,
                    number(mine),
                    number(rates[peer]["median"]),
                    f"{ratio['median']:.2f}x ({ratio['least']:.2f} to {ratio['most']:.2f})",
                    f"{ratio['goal']:g}x" if "goal" in ratio else "-",
                    f"`python benchmarks/{script}.py`",
                    f"{result['date']}, {result['commit']}, {result['turns']} turns; {versions}; "
                    f"{record['hardware']}; load {result['load'][0]:g} to {result['load'][1]:g}",
                ]
            )
    return found


def table() -> str:
    """All records as a table."""
    cells = [
        [
            "case", "beside", "ours /s", "theirs /s", "ratio (spread)", "goal", "command",
            "measured",
        ],
        ["---"] * 8,
        *(row for script in SCRIPTS for row in rows(script)),
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def write_table() -> None:
    """Puts it into README.md, between its markers."""
    path = HERE / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(START)
    after = rest.split(END)[1]
    path.write_text(f"{before}{START}\n{table()}\n{END}{after}", encoding="utf-8")


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--table"]
    if "--table" not in sys.argv[1:]:
        for script in SCRIPTS:
            subprocess.run([sys.executable, str(HERE / f"{script}.py"), *words], check=True)
            write_table()
    write_table()


if __name__ == "__main__":
    main()
