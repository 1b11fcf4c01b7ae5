"""The command line: ``python -m tfcontrast.run --method=supcon --train_mode=pretrain``.

Flags become a config, the config goes to one driver. A user's mistake is one line and exit code 2.
"""

import gc
import logging
import os
import sys
from collections.abc import Sequence

from tfcontrast.config import Config
from tfcontrast.errors import UserError
from tfcontrast.train.console import plain, quiet
from tfcontrast.train.interruption import RESUME_ME, Interrupted, claim_signals, listening


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the program's name and its flags; ``sys.argv`` when None.

    Returns:
        0 when it is done, 2 after a user's mistake, 75 when the same command would go on.
    """
    argv = list(sys.argv if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    with listening(ends_process=True):
        try:
            _command(argv)
        except UserError as error:
            print(f"error: {plain(str(error))}", file=sys.stderr)
            return 2
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            return RESUME_ME
        except BrokenPipeError:  # the reader of standard output, such as head, has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _command(argv: list[str]) -> None:
    """Reads the flags, and does what they say."""
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # over Keras's own file
    if backend != "tensorflow":
        raise UserError(f"KERAS_BACKEND must be tensorflow, or not be set. Received: {backend!r}")
    # TensorFlow takes them by itself on some processors only; convolutions need half the time.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # Imports speak before a flag could be parsed.
    hush = not {"--framework_logs", "--framework_logs=true"} & set(argv)
    collects = gc.isenabled()
    gc.disable()  # what imports make stays; looking through it for waste takes half a second
    try:
        with quiet(hush):
            from tfcontrast import flags
    finally:
        if collects:
            gc.enable()
    for name in ("tensorflow", "absl") if hush else ():
        logging.getLogger(name).setLevel(logging.ERROR)
    config = flags.parse(argv)
    if config is None:
        print(flags.help_text(), flush=True)
        return
    from tfcontrast.data import plain_errors

    with plain_errors():
        _execute(config)


def _execute(config: Config) -> None:
    """Opens the run's folder, hands the config to its driver and writes what it measured."""
    from tfcontrast import flags
    from tfcontrast.distribute import is_chief, make_strategy
    from tfcontrast.train import build, run_folder
    from tfcontrast.train.classify import classify
    from tfcontrast.train.export_model import export_model
    from tfcontrast.train.pretrain import pretrain

    drivers = {"pretrain": pretrain, "linear_eval": classify, "finetune": classify}
    with quiet(not config.run.framework_logs):
        strategy = make_strategy(
            config.strategy.strategy,
            num_replicas=config.strategy.num_replicas,
            tpu_name=config.strategy.tpu_name,
        )
    claim_signals()
    build.check_batch(config, strategy)
    driver = export_model if config.run.mode == "export" else drivers[config.run.train_mode]
    if not is_chief(strategy):
        driver(config, run_folder.locate(config), strategy)
        return
    with run_folder.opened(config, flags.to_flagfile(config)) as folder:
        print(run_folder.describe(config, folder, strategy), flush=True)
        run_folder.write_result(folder, config, driver(config, folder, strategy))
    print(run_folder.next_commands(config, folder), flush=True)


if __name__ == "__main__":
    sys.exit(main())
