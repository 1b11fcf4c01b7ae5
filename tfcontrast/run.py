"""The command line: ``python -m tfcontrast.run --method=supcon --train_mode=pretrain``.

Flags become a config, the config goes to one driver. A user's mistake is one line and exit code 2.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence

from tfcontrast.config import Config
from tfcontrast.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the program's name and its flags; ``sys.argv`` when None.

    Returns:
        0 when it is done, 2 after a user's mistake, 130 after an interruption.
    """
    argv = list(sys.argv if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        if backend != "tensorflow":
            raise UserError(f"Keras must run on TensorFlow here. Received: KERAS_BACKEND={backend}")
        # Imports speak before a flag could be parsed.
        with _quiet(not {"--framework_logs", "--framework_logs=true"} & set(argv)):
            from tfcontrast import flags

            config = flags.parse(argv)
        if config is None:
            print(flags.help_text())
            return 0
        _execute(config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 130
    return 0


def _execute(config: Config) -> None:
    """Opens the run's folder, hands the config to its driver and writes what it measured."""
    from tfcontrast import flags
    from tfcontrast.distribute import make_strategy
    from tfcontrast.train import build, run_folder
    from tfcontrast.train.classify import classify
    from tfcontrast.train.export_model import export_model
    from tfcontrast.train.pretrain import pretrain

    drivers = {"pretrain": pretrain, "linear_eval": classify, "finetune": classify}
    with _quiet(not config.run.framework_logs):
        strategy = make_strategy(
            config.strategy.strategy,
            num_replicas=config.strategy.num_replicas,
            tpu_name=config.strategy.tpu_name,
        )
    build.check_batch(config, strategy)
    trains = config.run.mode in ("train", "train_then_eval")
    folder = run_folder.locate(config)
    if trains:
        folder = run_folder.open_run_folder(str(folder), flags.to_flagfile(config))
    print(run_folder.describe(config, folder, strategy), flush=True)
    driver = export_model if config.run.mode == "export" else drivers[config.run.train_mode]
    run_folder.write_result(folder, config, driver(config, folder, strategy))
    print(run_folder.next_commands(config, folder), flush=True)


@contextlib.contextmanager
def _quiet(enabled: bool) -> Iterator[None]:
    """Hides what TensorFlow's C++ writes to standard error at start-up, unless that fails."""
    if not enabled:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        except UserError:
            raise
        except BaseException:
            caught.seek(0)
            os.write(kept, caught.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


if __name__ == "__main__":
    sys.exit(main())
