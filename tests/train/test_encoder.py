"""The encoder that the options describe; a vision transformer through every driver."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.errors import UserError
from tfcontrast.methods import Method
from tfcontrast.models import VisionTransformer
from tfcontrast.models.vit import SIZES
from tfcontrast.train import build, checkpoints, classify, export_model, pretrain, state
from tfcontrast.train.encoder import build_backbone, check_view_sizes, resolved_encoder
from tfcontrast.train.options import make_config

# A vision transformer of four patches on 16x16 digits.
VIT = {
    "method": "simclr",
    "dataset": "digits",
    "train_split": "test",
    "eval_split": "test",
    "holdout_fraction": 0.1,
    "image_size": 16,
    "augmentation": "crop_flip",
    "backbone": "vit_tiny",
    "patch_size": 8,
    "drop_path_rate": 0.1,
    "proj_hidden_dim": 16,
    "proj_out_dim": 8,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "learning_rate_scaling": "none",
    "warmup_epochs": 0.0,
    "train_batch_size": 32,
    "train_steps": 3,
    "monitor_epochs": 1,
    "knn_k": 5,
}


def vit_config(**options):
    return make_config({**VIT, **options})


def test_the_resnet_is_what_the_options_say(tiny_config):
    config = tiny_config(
        resnet_depth=50, width_multiplier=0.125, stem="auto", sk_ratio=0.0625, se_ratio=0.25,
        shortcut="simclr", output_stride=8, zero_init_last_gamma=False, batch_norm_decay=0.95,
        global_bn=False, batch_norm_splits=4, sobel=True, input_normalization="half",
        precision="bfloat16", remat=True,
    )  # fmt: skip
    found = build_backbone(config, 64).get_config()
    assert found["dtype"]["config"]["name"] == "mixed_bfloat16"
    del found["dtype"]
    assert found == {
        "name": "backbone", "depth": 50, "width_multiplier": 0.125, "stem": "auto",
        "image_size": 64, "shortcut": "simclr", "sk_ratio": 0.0625, "se_ratio": 0.25,
        "output_stride": 8, "zero_init_last_gamma": False, "batch_norm_decay": 0.95,
        "global_bn": False, "batch_norm_splits": 4, "sobel": True, "input_mean": [0.5] * 3,
        "input_std": [0.5] * 3, "remat": True,
    }  # fmt: skip
    assert resolved_encoder(config, 32) == {"stem": "cifar"}


def test_the_vision_transformer_is_what_the_options_say():
    config = vit_config(
        backbone="vit_small", patch_size=4, num_heads=12, position_embedding="sincos",
        vit_initialization="moco_v3", freeze_patch_embedding=True, drop_path_rate=0.25,
        input_normalization="half", precision="bfloat16", remat=True,
    )  # fmt: skip
    found = build_backbone(config, 32).get_config()
    assert found["dtype"]["config"]["name"] == "mixed_bfloat16"
    del found["dtype"]
    assert found == {
        "name": "backbone", "size": "small", "patch_size": 4, "image_size": 32, "width": 0,
        "depth": 0, "num_heads": 12, "position_embedding": "sincos", "pooling": "cls",
        "initialization": "moco_v3", "freeze_patch_embedding": True, "drop_path_rate": 0.25,
        "input_mean": [0.5] * 3, "input_std": [0.5] * 3, "remat": True,
    }  # fmt: skip
    assert resolved_encoder(config, 32) == {"position_image_size": 32}
    other = vit_config(position_image_size=24)
    assert build_backbone(other, 32).get_config()["image_size"] == 24
    assert resolved_encoder(other, 32) == {"position_image_size": 24}


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_every_size_is_there(size):
    plain = VisionTransformer(size=size, patch_size=8, image_size=16)
    found = build_backbone(vit_config(backbone=f"vit_{size}"), 16)
    assert (found.feature_dim, found.depth, found.num_heads) == (
        plain.feature_dim,
        plain.depth,
        plain.num_heads,
    )
    assert found.needs_seed
    assert not plain.needs_seed


def refusal(function, *arguments):
    with pytest.raises(UserError) as info:
        function(*arguments)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_what_does_not_fit_a_vision_transformer_is_one_line(tiny_config):
    config = vit_config()
    assert refusal(build_backbone, config, 20) == (
        "A vision transformer's --image_size must be a multiple of its patch size 8. Received: 20"
    )
    assert "Received: 20" in refusal(build_backbone, vit_config(position_image_size=16), 20)
    assert "Received: 20" in refusal(build_backbone, vit_config(position_image_size=20), 16)
    assert refusal(build_backbone, vit_config(num_heads=5), 16) == (
        "--num_heads must divide the width of --backbone=vit_tiny, 192. Received: 5"
    )
    assert refusal(check_view_sizes, config, [8, 12]) == (
        "--local_image_size must be a multiple of --patch_size=8 with --backbone=vit_tiny. "
        "Received: 12"
    )
    check_view_sizes(config, [8, 16])
    check_view_sizes(tiny_config(), [7, 12])


def test_the_sizes_of_the_local_views_are_checked_with_the_recipes(monkeypatch):
    local = {"num_local_views": 2, "local_crop_area": (0.1, 0.4)}
    monkeypatch.setattr(build, "_local_views", lambda _: {**local, "local_image_size": 12})
    assert "--local_image_size" in refusal(build.make_recipes, vit_config(), 16)
    monkeypatch.setattr(build, "_local_views", lambda _: {**local, "local_image_size": 8})
    assert [r.image_size for r in build.make_recipes(vit_config(), 16)] == [16, 16, 8, 8]


def test_a_transformer_has_no_defaults_of_a_resnet():
    config = make_config({"method": "simclr", "backbone": "vit_tiny", "patch_size": 4})
    assert config.data.dataset == "digits"
    assert config.model.resnet_depth == 50, "not the digits' 10"
    config.validate()


def compile_plainly(self, **options):
    keras.Model.compile(self, **{**options, "jit_compile": False})


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folder of a pretrained vision transformer, and its result.

    It has three blocks and is not compiled, in the tests after it too: that would take minutes.
    """
    folder = tmp_path_factory.mktemp("vit")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "tiny", (24, 3, 3))
        patch.setattr(Method, "compile", compile_plainly)
        yield folder, pretrain.pretrain(vit_config(), folder, tf.distribute.get_strategy())


def arrays_of(folder):
    return checkpoints.read_arrays(checkpoints.latest_checkpoint(folder / "checkpoints")[0])


def test_a_vision_transformer_trains_and_is_measured_beside_an_untrained_one(pretrained):
    folder, result = pretrained
    assert result["train"]["steps"] == 3
    assert result["train"]["skipped_steps"] == 0
    assert np.isfinite(result["train"]["last_epoch"]["loss"])
    assert {record["encoder"] for record in result["evaluation"]} == {
        "simclr, last step",
        "untrained network",
        "raw pixels",
    }
    assert all(0 < record["value"] <= 1 for record in result["evaluation"])
    manifest = json.loads((folder / "checkpoints/step_00000003/manifest.json").read_text())
    assert manifest["config"]["position_image_size"] == 16
    assert manifest["config"]["stem"] == "auto"


CLASSIFY = {
    "train_split": "test",
    "augmentation": "crop_flip",
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "learning_rate_scaling": "none",
    "train_batch_size": 32,
    "train_steps": 2,
}


def test_linear_evaluation_leaves_the_whole_transformer(pretrained, tmp_path):
    source, _ = pretrained
    config = make_config(
        {**CLASSIFY, "train_mode": "linear_eval", "checkpoint": str(source), "weight_decay": 0.1}
    )
    result = classify.classify(config, tmp_path, tf.distribute.get_strategy())
    before, found = arrays_of(source), arrays_of(tmp_path)
    backbone = [name for name in found if name.startswith("backbone/")]
    assert len(backbone) == 4 + 3 * 12 + 2
    for name in backbone:
        np.testing.assert_array_equal(found[name], before[name], err_msg=name)
    assert np.any(found["classifier/kernel"])
    assert [r["metric"] for r in result["evaluation"]] == ["linear_eval_top1", "linear_eval_top5"]


def test_finetuning_counts_blocks(pretrained, tmp_path):
    source, _ = pretrained
    given = {**CLASSIFY, "train_mode": "finetune", "checkpoint": str(source), "mode": "train"}
    config = make_config({**given, "fine_tune_after_block": 2, "drop_path_rate": 0.0})
    assert config.model.drop_path_rate == 0, "no weight depends on it"
    classify.classify(config, tmp_path, tf.distribute.get_strategy())
    before, found = arrays_of(source), arrays_of(tmp_path)
    still = ("embedding", "block1", "block2")
    for name in before:
        if name.startswith("backbone/"):
            moved = np.any(before[name] != found[name])
            assert moved == (name.split("/")[1] not in still), name


def test_a_larger_image_takes_interpolated_positions(pretrained):
    source, _ = pretrained
    config = make_config(
        {**CLASSIFY, "train_mode": "finetune", "checkpoint": str(source), "image_size": 24}
    )
    assert (config.data.image_size, config.model.position_image_size) == (24, 16)
    method = classify.build_classifier(config, build.open_data(config))
    assert method.backbone.embedding.positions.shape == (1, 5, 24)
    same = make_config(
        {**CLASSIFY, "train_mode": "finetune", "checkpoint": str(source), "position_image_size": 0}
    )
    assert same.model.position_image_size == 16, "what the checkpoint came to"


def test_a_block_that_is_not_there(pretrained, saved_run, tmp_path):
    source, _ = pretrained
    given = {**CLASSIFY, "train_mode": "finetune", "fine_tune_after_block": 3}
    config = make_config({**given, "checkpoint": str(source)})
    whole = classify.build_classifier(config, build.open_data(config))
    assert [v.path for v in whole.encoder_variables] == [v.path for v in whole.classifier.variables]
    folder, _, _ = saved_run(tmp_path / "resnet")
    config = make_config({**given, "checkpoint": str(folder), "fine_tune_after_block": 5})
    message = refusal(classify.build_classifier, config, build.open_data(config))
    assert message == (
        "--fine_tune_after_block must be at most 4 with --backbone=resnet. Received: 5"
    )


def test_the_exported_transformer_gives_the_checkpoints_features(pretrained, tmp_path):
    source, _ = pretrained
    config = make_config({"mode": "export", "checkpoint": str(source)})
    result = export_model.export_model(config, tmp_path, tf.distribute.get_strategy())
    assert result["export"]["projections"] is True
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    backbone = build_backbone(config, 16)
    images = tf.random.stateless_uniform([3, 16, 16, 3], [0, 5])
    backbone(images)
    named = dict(state.named_variables(backbone, "backbone"))
    checkpoints.restore(named, arrays_of(source), source="the test")
    np.testing.assert_allclose(loaded(images), backbone(images), atol=1e-5)
