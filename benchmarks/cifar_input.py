"""Two-view samples a second at CIFAR's and STL's sizes, beside simclr/tf2 and lightly.

    python benchmarks/cifar_input.py --peer_python=PYTHON [--simclr_dir=CLONE]

SimCLR's full recipe at strength 1: random crop and resize, flip, colour jitter in random order,
grey, with and without blur. Images lie in memory. The record goes into ``cifar_input.json``.
"""

import input_race

# title: side, blur, and how many times as fast as each peer it shall be
CASES = {
    "32 px": (32, False, {"simclr": 5.0, "lightly": 20.0}),
    "32 px, blur": (32, True, {"simclr": 5.0, "lightly": 20.0}),
    "96 px, blur": (96, True, {"simclr": 3.0, "lightly": 3.0}),
}


def main() -> None:
    arguments = input_race.arguments_of(__doc__, repetitions=7, seconds=3.0, batch_size=256)
    results = {
        title: input_race.run_case(title, arguments, size=size, blur=blur, goals=goals)
        for title, (size, blur, goals) in CASES.items()
    }
    input_race.write(__file__, results, arguments)


if __name__ == "__main__":
    main()
