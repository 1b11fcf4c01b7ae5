"""From given options to a config: precedence, and what a checkpoint brings and forbids."""

import dataclasses
import json

import numpy as np
import pytest

from tfcontrast.config import DIGITS_DEFAULTS
from tfcontrast.errors import UserError
from tfcontrast.methods import METHODS
from tfcontrast.train.checkpoints import write_checkpoint
from tfcontrast.train.manifest import hash_of
from tfcontrast.train.options import make_config, method_fields


@pytest.fixture
def checkpoint(tmp_path):
    """A function that makes a run's folder whose checkpoint has these options."""

    def make(**given):
        options = {**make_config(given).to_dict(), "image_size": 16, "stem": "cifar"}
        folder = tmp_path / "run"
        write_checkpoint(folder / "checkpoints", {"a": np.zeros(1)}, step=4, config=options)
        return folder

    return make


def manifest_of(folder):
    return folder / "checkpoints" / "step_00000004" / "manifest.json"


def rewrite(folder, **changes):
    """Gives the manifest other contents, and the hash that goes with them."""
    file = manifest_of(folder)
    contents = json.loads(file.read_text()) | changes
    file.write_text(json.dumps(contents | {"sha256": hash_of(contents)}))
    return file


def options_of(folder):
    return json.loads(manifest_of(folder).read_text())["config"]


def refusal(**given):
    with pytest.raises(UserError) as info:
        make_config(given)
    return str(info.value)


def test_methods_fields_say_who_has_what():
    fields = method_fields()
    assert set(fields["temperature"]) >= {"simclr", "supcon"}
    assert set(fields["supcon_variant"]) == {"supcon"}
    assert "supervised" in fields["label_smoothing"]
    for name, by_method in fields.items():
        for method, cls in METHODS.items():
            own = {field.name: field for field in dataclasses.fields(cls.Config)}
            assert by_method.get(method) is own.get(name)


@pytest.mark.parametrize("train_mode", ["linear_eval", "finetune"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_methods_own_default_of_every_train_mode(checkpoint, method, train_mode):
    folder = checkpoint(method=method, dataset="mnist")
    config = make_config({"train_mode": train_mode, "checkpoint": str(folder)})
    for name, value in METHODS[method].Config.DEFAULTS[train_mode].items():
        assert config.to_dict()[name] == value, name
    assert config.run.method == method


def test_a_classifier_takes_encoder_data_and_projector_from_its_checkpoint(checkpoint):
    folder = checkpoint(
        dataset="mnist", resnet_depth=18, proj_out_dim=32, learning_rate=0.7, seed=5, knn_k=7
    )
    config = make_config({"train_mode": "finetune", "checkpoint": str(folder)})
    assert (config.model.resnet_depth, config.model.stem) == (18, "cifar")
    assert (config.data.dataset, config.data.image_size) == ("mnist", 16)
    assert config.method.proj_out_dim == 32
    assert config.optim.learning_rate == 0.05, "the optimizer is the protocol's"
    assert (config.run.seed, config.evaluation.knn_k) == (0, 200)
    assert config.run.model_dir == ""


def test_digits_bring_their_sizes_under_the_users_own(checkpoint):
    folder = checkpoint()
    config = make_config(
        {"train_mode": "linear_eval", "checkpoint": str(folder), "train_epochs": 3}
    )
    digits = DIGITS_DEFAULTS["linear_eval"]
    assert config.train.train_batch_size == digits["train_batch_size"]
    assert config.train.train_epochs == 3
    other = make_config(
        {"train_mode": "linear_eval", "checkpoint": str(folder), "dataset": "mnist"}
    )
    assert other.train.train_batch_size == 6144


def test_what_weights_do_not_depend_on_can_be_changed(checkpoint):
    folder = checkpoint(resnet_depth=18)
    config = make_config(
        {
            "train_mode": "linear_eval",
            "checkpoint": str(folder),
            "dataset": "mnist",
            "image_size": 32,
            "precision": "bfloat16",
            "stem": "auto",
        }
    )
    assert (config.data.image_size, config.model.precision) == (32, "bfloat16")
    assert config.model.stem == "cifar", "auto is what the checkpoint came to"


def test_a_contradiction_of_the_encoder_names_both(checkpoint):
    folder = checkpoint(resnet_depth=18)
    message = refusal(train_mode="linear_eval", checkpoint=str(folder), resnet_depth=50)
    assert message == (
        "--resnet_depth=50 contradicts the checkpoint, which was made with --resnet_depth=18"
    )
    assert "--proj_out_dim=3 contradicts" in refusal(
        train_mode="finetune", checkpoint=str(folder), proj_out_dim=3
    )
    assert "--stem=imagenet contradicts" in refusal(
        train_mode="finetune", checkpoint=str(folder), stem="imagenet"
    )


@pytest.mark.parametrize("where", ["model_dir", "checkpoint"])
@pytest.mark.parametrize("mode", ["eval", "export"])
def test_measuring_takes_everything_but_places_and_devices(checkpoint, mode, where):
    folder = checkpoint(learning_rate=0.7, seed=5, strategy="mirrored", num_replicas=2, knn_k=7)
    config = make_config({"mode": mode, where: str(folder), "image_size": 0, "knn_k": 9})
    assert (config.run.mode, getattr(config.run, where)) == (mode, str(folder))
    assert (config.optim.learning_rate, config.run.seed) == (0.7, 5)
    assert (config.strategy.strategy, config.strategy.num_replicas) == ("auto", 0)
    assert (config.data.image_size, config.evaluation.knn_k) == (16, 9)


@pytest.mark.parametrize(
    ("name", "value"), [("method", "simclr"), ("train_mode", "finetune"), ("temperature", 0.5)]
)
def test_measuring_contradicts_nothing(checkpoint, name, value):
    folder = checkpoint()
    message = refusal(mode="eval", checkpoint=str(folder), **{name: value})
    assert message.startswith(f"--{name}={value} contradicts the checkpoint")


def test_another_methods_protocol_on_this_encoder_is_allowed(checkpoint):
    folder = checkpoint(dataset="mnist", method="simclr")
    config = make_config(
        {"train_mode": "linear_eval", "checkpoint": str(folder), "method": "supcon"}
    )
    assert config.optim.optimizer == "rmsprop"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("method", "nosuch", "--method must be one of"),
        ("method", ["a"], "--method must be one of"),
        ("resnet_depth", "18", "--resnet_depth must be a whole number"),
        ("resnet_depth", 19, "--resnet_depth must be one of"),
        ("temperature", None, "--temperature must be a number"),
        ("train_mode", "nosuch", "--train_mode must be one of"),
    ],
)
def test_a_manifest_with_other_options_is_refused_with_its_file(checkpoint, name, value, said):
    folder = checkpoint()
    file = rewrite(folder, config=options_of(folder) | {name: value})
    message = refusal(mode="eval", checkpoint=str(folder))
    assert message.startswith(f"{file.parent} is damaged or of another version")
    assert said in message


@pytest.mark.parametrize("config", [None, [], "x"])
def test_a_manifest_without_options_is_refused(checkpoint, config):
    folder = checkpoint()
    file = rewrite(folder, config=config)
    assert "states no options" in refusal(mode="eval", checkpoint=str(file.parent))


def test_options_of_a_newer_version_are_passed_over(checkpoint):
    folder = checkpoint()
    rewrite(folder, config=options_of(folder) | {"an_option_of_tomorrow": 1})
    assert make_config({"mode": "eval", "checkpoint": str(folder)}).run.method == "supcon"


def test_from_python_unknown_words_are_refused_too():
    accepted = ", ".join(sorted(METHODS))
    assert refusal(method="nosuch") == f"--method must be one of {accepted}. Received: 'nosuch'"
    assert refusal(train_mode="nosuch", checkpoint="/nowhere").startswith("--checkpoint")
    assert refusal(mode="nosuch").startswith("--mode must be one of")
