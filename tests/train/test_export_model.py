import numpy as np
import pytest
import tensorflow as tf

from tfcontrast.errors import UserError
from tfcontrast.train.export_model import export_model
from tfcontrast.train.options import make_config


def exported(folder, target, strategy, **options):
    config = make_config({"mode": "export", "checkpoint": str(folder), **options})
    return export_model(config, target, strategy)


def test_the_saved_model_is_the_checkpoints_encoder(saved_run, strategy_of, capsys, tmp_path):
    folder, method, _ = saved_run()
    images = tf.random.stateless_uniform([3, 8, 8, 3], [0, 5])
    expected = method((images, images))
    # the strategy that the run had does not matter to an export
    result = exported(folder, tmp_path, strategy_of(2))
    assert result == {
        "export": {
            "path": str(tmp_path / "saved_model"),
            "checkpoint": "step_00000003",
            "projections": True,
        }
    }
    assert f"wrote {tmp_path / 'saved_model'}" in capsys.readouterr().out
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    np.testing.assert_allclose(loaded(images), expected["features"][:3], rtol=1e-5, atol=1e-6)


def test_an_encoder_without_projector(saved_run, strategy_of, tmp_path):
    folder, _, _ = saved_run(method="supervised")
    assert exported(folder, tmp_path, strategy_of(1))["export"]["projections"] is False
    assert (tmp_path / "saved_model").is_dir()


def test_a_folder_that_cannot_be_written(saved_run, strategy_of, tmp_path):
    folder, _, _ = saved_run()
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    with pytest.raises(UserError, match=r"saved_model cannot be written: .+"):
        exported(folder, blocked, strategy_of(1))
    assert blocked.read_text() == "a file"
