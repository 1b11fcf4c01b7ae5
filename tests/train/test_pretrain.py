import json

import numpy as np
import pytest

from tfcontrast.train import build, checkpoints, pretrain, state


@pytest.fixture(autouse=True)
def _measured(monkeypatch):
    """Measures in no time: the mean of the features of two images."""

    def measure(config, data, evaluation, embed, label):
        images = data.evaluation.images[:2] / np.float32(255)
        value = float(np.mean(embed(images)))
        return [{"metric": "knn_top1", "value": value, "encoder": label}], f"table of {label}"

    monkeypatch.setattr(pretrain, "measure_encoders", measure)


def test_training_then_measuring_then_measuring_again(tiny_config, strategy_of, capsys, tmp_path):
    options = {"train_steps": 2, "monitor_epochs": 0}
    config = tiny_config(**options)
    result = pretrain.pretrain(config, tmp_path, strategy_of(1))
    assert result["train"]["steps"] == 2
    (record,) = result["evaluation"]
    assert record["encoder"] == "simclr, last step"
    json.dumps(result)
    out = capsys.readouterr().out
    assert "digits, test: 359 images, in %\ntable of simclr, last step" in out
    later = pretrain.pretrain(
        tiny_config(mode="eval", checkpoint=str(tmp_path)), tmp_path / "other", strategy_of(1)
    )
    assert later == {"evaluation": [record]}
    trained_only = pretrain.pretrain(tiny_config(**options, mode="train"), tmp_path, strategy_of(1))
    assert list(trained_only) == ["train"]
    assert "resumed from step_00000002: 2 of 2" in capsys.readouterr().out


def test_supervised_reports_its_classifier_too(tiny_config, strategy_of, tmp_path):
    config = tiny_config(method="supervised", train_steps=2, monitor_epochs=0)
    result = pretrain.pretrain(config, tmp_path, strategy_of(1))
    metrics = [record["metric"] for record in result["evaluation"]]
    assert metrics == ["knn_top1", "classifier_top1", "classifier_top5"]
    assert "from scratch, sgd, 323 training images" in result["evaluation"][1]["protocol"] or (
        "359 training images" in result["evaluation"][1]["protocol"]
    )


def test_without_labels_there_is_nothing_to_measure(
    tiny_config, strategy_of, monkeypatch, capsys, tmp_path
):
    opened = build.open_data

    def unlabelled(config):
        data = opened(config)
        return build.RunData(data.train, None, data.whole_train, None, data.image_size)

    monkeypatch.setattr(pretrain.build, "open_data", unlabelled)
    config = tiny_config(train_steps=1)
    result = pretrain.pretrain(config, tmp_path, strategy_of(1))
    assert list(result) == ["train"]
    assert "no labelled evaluation split: nothing to measure" in capsys.readouterr().out


def test_missing_variables_may_be_allowed_by_name(saved_run, tiny_config, strategy_of, tmp_path):
    folder, method, _ = saved_run(lineareval_while_pretraining=False)
    options = {"mode": "eval", "checkpoint": str(folder)}
    config = tiny_config(**options, lineareval_while_pretraining=True, allow_missing="probe")
    result = pretrain.pretrain(config, tmp_path, strategy_of(1))
    assert list(result) == ["evaluation"]
    with pytest.raises(checkpoints.UserError, match=r"lacks 2 of .* probe/kernel"):
        pretrain.pretrain(
            tiny_config(**options, lineareval_while_pretraining=True), tmp_path, strategy_of(1)
        )
    assert not any(name.startswith("probe") for name in state.model_state(method))
