"""The README is true: its commands parse, its Python runs; ``test_docs`` follows its links."""

import pathlib
import re
import shlex

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import flags

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _commands():
    lines = [line for block in _blocks("bash") for line in block.splitlines()]
    runs = [line.split("-m tfcontrast.run", 1)[1] for line in lines if "-m tfcontrast.run" in line]
    return [shlex.split(run) for run in runs]


def test_every_command_parses_or_only_misses_its_checkpoint(monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = _commands()
    assert len(commands) >= 6
    for command in commands:
        if any("flags.txt" in word for word in command):
            continue
        with_source = any(word.startswith("--checkpoint=") for word in command)
        if with_source:
            with pytest.raises(flags.UserError, match="--checkpoint: runs/"):
                flags.parse(["run", *command])
        else:
            assert flags.parse(["run", *command]).run.mode == "train_then_eval"


def test_the_main_command_is_the_embedded_default(monkeypatch):
    main = README.split("<!-- main command -->")[1].split("```")[1]
    command = shlex.split(main.strip().splitlines()[-1].split("-m tfcontrast.run", 1)[1])
    config = flags.parse(["run", *command])
    assert (config.data.dataset, config.run.method) == ("digits", "supcon")


def test_the_loss_example_trains_a_model():
    names = {}
    exec(_blocks("python")[0], names)
    model = names["MySimCLR"]()
    model.encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(8)])
    model.encoder.build([None, 4, 4, 1])
    model.compile(keras.optimizers.SGD(0.5))
    rng = np.random.RandomState(0)
    views = tf.constant(rng.rand(2, 8, 4, 4, 1), tf.float32)
    losses = [float(model.train_step(tf.unstack(views))["loss"]) for _ in range(20)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_method_example_runs_and_gives_features():
    names = {}
    source = _blocks("python")[1].replace("epochs=3", "epochs=1")
    exec(source.replace("fit(views,", "fit(views, verbose=0,"), names)
    assert names["features"].shape == (8, names["method"].backbone.feature_dim)
    assert np.isfinite(names["features"]).all()
