import numpy as np
import pytest
import tensorflow as tf

from tfcontrast import data as data_lib
from tfcontrast import evaluate
from tfcontrast.errors import UserError
from tfcontrast.train import build, checkpoints, classify, state
from tfcontrast.train.export_model import export_model
from tfcontrast.train.loop import train
from tfcontrast.train.options import make_config

CLASSIFY = {
    "learning_rate": 0.5,
    "learning_rate_scaling": "none",
    "warmup_epochs": 0.0,
    "train_steps": 4,
    "train_batch_size": 64,
    "train_split": "test",
    "augmentation": "crop_flip",
    "optimizer": "sgd",
}


@pytest.fixture
def source(saved_run):
    folder, method, _ = saved_run(proj_batch_norm=True, num_proj_layers=3, proj_out_dim=8)
    arrays = checkpoints.read_arrays(folder / "checkpoints/step_00000003")
    return folder, arrays, method


@pytest.fixture
def config_of(source):
    def make(train_mode, **options):
        return make_config(
            {**CLASSIFY, "train_mode": train_mode, "checkpoint": str(source[0]), **options}
        )

    return make


def saved_state(folder):
    return checkpoints.read_arrays(checkpoints.latest_checkpoint(folder / "checkpoints")[0])


def test_linear_evaluation_leaves_the_encoder_bit_for_bit(
    source, config_of, strategy_of, capsys, tmp_path
):
    config = config_of("linear_eval", checkpoint_steps=2)
    result = classify.classify(config, tmp_path, strategy_of(1))
    found = saved_state(tmp_path)
    backbone = [name for name in found if name.startswith("backbone/")]
    assert len(backbone) > 40
    for name in backbone:
        np.testing.assert_array_equal(found[name], source[1][name], err_msg=name)
    assert np.any(found["classifier/kernel"])
    assert [r["metric"] for r in result["evaluation"]] == ["linear_eval_top1", "linear_eval_top5"]
    top1, top5 = (record["value"] for record in result["evaluation"])
    assert 0.05 < top1 < top5 <= 1
    assert result["evaluation"][0]["protocol"] == (
        "linear classifier on frozen features, sgd, 359 training images, last step, one evaluation "
        "view"
    )
    assert "digits, test: 359 images" in capsys.readouterr().out
    # what was trained is what a later evaluation reads
    evaluated = make_config({"mode": "eval", "checkpoint": str(tmp_path)})
    assert evaluated.run.train_mode == "linear_eval"
    again = classify.classify(evaluated, tmp_path / "other", strategy_of(1))
    assert again == {"evaluation": result["evaluation"]}


def test_finetuning_moves_everything_from_the_kept_layer_down(
    source, config_of, strategy_of, tmp_path
):
    config = config_of("finetune", ft_proj_selector=1, mode="train", weight_decay=0.1)
    result = classify.classify(config, tmp_path, strategy_of(1))
    assert list(result) == ["train"]
    found, before = saved_state(tmp_path), source[1]
    networks = {n for n in before if n.startswith(("backbone/", "projector/"))}
    moved = {n for n in networks if np.any(found[n] != before[n])}
    kept_still = {n for n in networks if n.startswith(("projector/dense2", "projector/norm2"))}
    kept_still |= {n for n in networks if n.startswith(("projector/dense3", "projector/norm3"))}
    assert len(kept_still) > 6
    assert moved == networks - kept_still
    # the optimizer, the step and the metrics are this run's own
    assert found["optimizer/0000"] == 4


def test_a_layer_too_many(config_of):
    config = config_of("finetune", ft_proj_selector=4)
    with pytest.raises(UserError, match="--ft_proj_selector=4: the projector has 3 layers"):
        classify.build_classifier(config, build.open_data(config))


def test_a_method_without_projector(saved_run, tmp_path):
    folder, _, _ = saved_run(tmp_path / "supervised", method="supervised")
    config = make_config(
        {**CLASSIFY, "train_mode": "finetune", "checkpoint": str(folder), "ft_proj_selector": 1}
    )
    with pytest.raises(UserError, match="=1: --method=supervised has no projector"):
        classify.build_classifier(config, build.open_data(config))


def test_the_classifiers_start_is_seeded(config_of):
    config = config_of("finetune", zero_init_logits_layer=False)
    data = build.open_data(config)
    first, second = (
        classify.build_classifier(config, data).classifier.kernel.numpy() for _ in range(2)
    )
    assert np.any(first)
    np.testing.assert_array_equal(first, second)
    config = config_of("finetune", fine_tune_after_block=2)
    method = classify.build_classifier(config, data)
    assert not np.any(method.classifier.kernel.numpy())
    names = {n.split("/")[1] for n, v in state.model_state(method).items() if v.trainable}
    assert method.frozen_groups == 2
    assert not {v.path for v in method.encoder_variables if "/group1" in v.path}
    assert "group3" in names


def test_logistic_regression_on_the_checkpoints_features(
    source, config_of, strategy_of, capsys, tmp_path
):
    config = config_of("linear_eval", linear_protocol="lbfgs")
    result = classify.classify(config, tmp_path, strategy_of(1))
    top1, top5 = result["evaluation"]
    assert (top1["metric"], top5["metric"]) == ("linear_top1", "linear_top5")
    pixels = data_lib.open_source("digits", "test")
    features = source[2].embed(pixels.images / np.float32(255)).numpy().astype(np.float64)
    expected = evaluate.logistic_probe(
        features, pixels.labels, features, pixels.labels, num_classes=10, search="two_level"
    )
    assert top1["value"] == pytest.approx(expected["linear_top1"], abs=0.01)
    assert top5["value"] == pytest.approx(expected["linear_top5"], abs=0.01)
    assert top1["protocol"] == expected["protocol"]
    assert "logistic regression on frozen features" in capsys.readouterr().out
    assert not list(tmp_path.glob("checkpoints"))


@pytest.fixture(scope="module")
def dino_run(tiny_config, tmp_path_factory):
    """A few steps of DINO, whose teacher is what is evaluated: folder, arrays, method."""
    folder = tmp_path_factory.mktemp("dino")
    sizes = {"proj_hidden_dim": 8, "proj_out_dim": 4, "num_prototypes": 8}
    config = tiny_config(
        method="dino",
        **sizes,
        train_steps=4,
        monitor_epochs=0,
        learning_rate=2.0,
        warmup_epochs=0.0,
    )
    data = build.open_data(config)
    method = build.build_method(config, data)
    train(method, config, data, folder)
    return folder, saved_state(folder), method


def of_dino(dino_run, train_mode, **options):
    given = {"train_mode": train_mode, "checkpoint": str(dino_run[0]), "mode": "train"}
    return make_config({**CLASSIFY, **given, **options})


def test_linear_evaluation_stands_on_dinos_teacher(dino_run, strategy_of, tmp_path):
    classify.classify(of_dino(dino_run, "linear_eval"), tmp_path, strategy_of(1))
    found, arrays = saved_state(tmp_path), dino_run[1]
    backbone = [name for name in found if name.startswith("backbone/")]
    assert len(backbone) > 40
    for name in backbone:
        np.testing.assert_array_equal(found[name], arrays[f"target_{name}"], err_msg=name)
    assert sum(np.any(found[name] != arrays[name]) for name in backbone) > len(backbone) / 2


def test_finetuning_starts_from_dinos_teacher_and_its_projector(dino_run, strategy_of, tmp_path):
    config = of_dino(dino_run, "finetune", ft_proj_selector=-1, learning_rate=0.0)
    classify.classify(config, tmp_path, strategy_of(1))
    found, arrays = saved_state(tmp_path), dino_run[1]
    kernels = [n for n in found if n.startswith(("backbone/", "projector/")) and "kernel" in n]
    assert sum(name.startswith("projector/") for name in kernels) == 3
    for name in kernels:
        np.testing.assert_array_equal(found[name], arrays[f"target_{name}"], err_msg=name)
    assert sum(np.any(found[name] != arrays[name]) for name in kernels) == len(kernels)


def test_what_is_exported_is_dinos_teacher(dino_run, strategy_of, tmp_path):
    config = make_config({"mode": "export", "checkpoint": str(dino_run[0])})
    assert export_model(config, tmp_path, strategy_of(1))["export"]["projections"]
    images = tf.random.stateless_uniform([3, 8, 8, 3], [0, 5])
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    method = dino_run[2]
    np.testing.assert_allclose(loaded(images), method.embed(images), rtol=1e-4, atol=1e-6)
    student = method.backbone(images, training=False)
    assert np.abs(loaded(images) - student).max() > 1e-4  # ten times what may differ above
