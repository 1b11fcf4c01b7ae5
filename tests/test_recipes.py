"""Every recipe of flags/ is whole: header, index, options; and takes two steps at toy size."""

import contextlib
import functools
import json
import pathlib
import re
import shlex

import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast import flags, run
from tfcontrast.augment import example_seeds, make_view
from tfcontrast.data.digits import open_digits
from tfcontrast.methods import METHODS
from tfcontrast.train.build import make_recipes
from tfcontrast.train.checkpoints import write_checkpoint
from tfcontrast.train.options import make_config
from tfcontrast.train.tensorboard import TensorBoard

ROOT = pathlib.Path(__file__).parents[1]
SMOKE = ROOT / "flags" / "smoke.flags"
SMOKE_VIT = ROOT / "flags" / "smoke_vit.flags"
RECIPES = sorted(path for path in ROOT.glob("flags/*/*.flags"))
HEADER = ("What", "Command", "Reported", "Ours", "Hardware")
# Small recipes run whole in benchmarks/methods_on_cifar10.py; here the others of each method.
SMALL = tuple(path for path in RECIPES if path.stem.endswith("_cpu"))
# What smoke.flags leaves large, as not every method has it; at most one prototype a toy image.
TOY_SIZES = {
    "num_local_views": 2,
    "num_prototypes": 16,
    "pred_hidden_dim": 32,
    "proj_hidden_dim": 32,
    "proj_out_dim": 32,
    "queue_size": 64,
}
# Two steps of these are taken among the quick tests, traced and with their own views: every method,
# a classifier, every option of SimCLR v2.
QUICK = ("digits/supervised", "cifar10/supcon_linear_eval", "imagenet/simclr_v2")


def name_of(path):
    return path.relative_to(ROOT / "flags").as_posix().removesuffix(".flags")


def options_of(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines()[5:] if line]
    return [line for line in lines if not line.startswith("#")]


def base_of(path):
    """The recipe that pretrains what this one starts from; None for a pretraining recipe."""
    name = re.sub("_(linear_eval|finetune)", "", path.name)
    return None if name == path.name else path.with_name(name)


def test_there_are_recipes_of_every_data_set():
    assert {path.parent.name for path in RECIPES} >= {"digits", "cifar10", "imagenet"}


@pytest.mark.parametrize("path", [*RECIPES, SMOKE, SMOKE_VIT], ids=name_of)
def test_the_header_is_the_five_lines(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for word, line in zip(HEADER, lines, strict=False):
        assert re.fullmatch(rf"# {word}: \S.*", line), line
    assert lines[5] == ""
    assert path.read_text(encoding="utf-8").endswith("\n")
    command = shlex.split(lines[1].removeprefix("# Command: "))
    assert command[:3] == ["python", "-m", "tfcontrast.run"]
    assert f"--flagfile={path.relative_to(ROOT).as_posix()}" in command
    needs = any(word.startswith("--checkpoint=") for word in command)
    assert needs == (base_of(path) is not None)


@pytest.mark.parametrize("path", [*RECIPES, SMOKE, SMOKE_VIT], ids=name_of)
def test_every_line_is_an_option_that_is_named_once(path):
    names = []
    for line in options_of(path):
        assert re.fullmatch(r"--[a-z_0-9]+=\S*", line), line
        names.append(line.partition("=")[0])
    assert sorted(names) == sorted(set(names))
    assert "--model_dir" not in names
    assert "--seed" not in names


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_the_index_lists_it(path):
    index = (ROOT / "flags" / "README.md").read_text(encoding="utf-8")
    assert f"]({name_of(path)}.flags)" in index


def toy_of(path):
    """The flagfile that makes it small."""
    vit = "--backbone=vit" in (base_of(path) or path).read_text(encoding="utf-8")
    return SMOKE_VIT if vit else SMOKE


def parse(path, folder, *words):
    """The recipe's config; a classifier's starts from a checkpoint of no weights in the folder."""
    words = [f"--flagfile={path}", *words]
    base = base_of(path)
    if base is not None:
        pretrained = flags.parse(["run", f"--flagfile={base}"]).to_dict()
        options = {**pretrained, "image_size": pretrained["image_size"] or 32}
        write_checkpoint(folder / "checkpoints", {"a": np.zeros(1)}, step=1, config=options)
        words.append(f"--checkpoint={folder}")
    return flags.parse(["run", *words])


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_it_parses_and_says_what_its_name_says(path, tmp_path):
    config = parse(path, tmp_path)
    assert path.stem.startswith(config.run.method)
    assert config.data.dataset.startswith(path.parent.name)
    assert (config.run.train_mode != "pretrain") == (base_of(path) is not None)
    assert config.run.mode == "train_then_eval"


@pytest.mark.parametrize("path", [p for p in RECIPES if p.parent.name == "digits"], ids=name_of)
def test_the_recipes_of_digits_are_the_defaults(path):
    assert flags.parse(["run", f"--flagfile={path}"]) == make_config({"method": path.stem})


@functools.cache
def view_of(recipe):
    """The view of a few digits, once for all the flagfiles that ask for it."""
    images = open_digits("train").images[:4]
    return make_view(images, example_seeds(0, tf.range(4, dtype=tf.int64), 0), recipe).numpy()


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_its_views_are_images_of_the_size_that_the_steps_see(path, tmp_path):
    toy = [] if base_of(path) else [f"--flagfile={toy_of(path)}"]
    config = parse(path, tmp_path, *toy)
    size = config.data.image_size if toy else 8
    recipes = make_recipes(config, size)
    small = getattr(config.method, "num_local_views", 0) if toy else 0
    assert len(recipes) == (METHODS[config.run.method].num_views if toy else 1) + small
    assert [recipe.image_size == size for recipe in recipes].count(False) == small
    for recipe in recipes:
        view = view_of(recipe)
        assert view.shape == (4, recipe.image_size, recipe.image_size, 3)
        assert view.dtype == np.float32
        assert 0 <= view.min() < view.max() <= 1


def plain_views(train_dataset):
    """``train_dataset`` with views that are resized images: of the recipes, sizes and number."""

    def dataset(source, recipes, **options):
        def views(images, counters):
            images = tf.cast(images, tf.float32) / 255
            return tuple(tf.image.resize(images, [recipe.image_size] * 2) for recipe in recipes)

        return train_dataset(source, recipes, **{**options, "views": views})

    return dataset


@contextlib.contextmanager
def cheaply():
    """Steps by hand: tracing one takes longer than ten, and the views are another test's."""
    tf.config.run_functions_eagerly(True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data_lib, "train_dataset", plain_views(data_lib.train_dataset))
            yield
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """Runs a recipe at toy size, once a module: gives its folder."""
    tf.config.list_logical_devices()
    folders = {}

    def take(path):
        if path not in folders:
            folder = tmp_path_factory.mktemp("recipes") / path.stem
            base = base_of(path)
            words = ["run", f"--flagfile={path}", f"--flagfile={toy_of(path)}"]
            # The smaller split: the monitor sees all of its images.
            words += ["--train_split=test", f"--model_dir={folder}", "--mode=train"]
            if base is not None:
                words.append(f"--checkpoint={take(base)}")
            else:
                method = flags.parse(["run", f"--flagfile={path}"]).method
                large = [n for n, most in TOY_SIZES.items() if getattr(method, n, 0) > most]
                words += [f"--{name}={TOY_SIZES[name]}" for name in large]
            with contextlib.nullcontext() if name_of(path) in QUICK else cheaply():
                assert run.main(words) == 0
            folders[path] = folder
        return folders[path]

    with pytest.MonkeyPatch.context() as patch:
        # Compiling the views takes longer than the two steps, and the picture makes them again.
        for name in ("train_dataset", "view_maker"):
            plain = functools.partial(getattr(data_lib, name), jit_compile=False)
            patch.setattr(data_lib, name, plain)
        patch.setattr(data_lib, "preview", lambda *_args, **_options: ())
        patch.setattr(TensorBoard, "write_views", lambda *_args, **_options: None)
        yield take


def _marked(path):
    return () if name_of(path) in QUICK else pytest.mark.slow


@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly")
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=_marked(p), id=name_of(p)) for p in RECIPES if p not in SMALL],
)
def test_it_takes_two_steps(two_steps, path):
    folder = two_steps(path)
    assert (folder / "checkpoints" / "step_00000002" / "manifest.json").exists()
    result = json.loads((folder / "result.json").read_text())
    assert result["train"]["steps"] == 2
    assert np.isfinite(result["train"]["last_epoch"]["loss"])
