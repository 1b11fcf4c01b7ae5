"""Runs the notebooks' code at smoke size; Keras and TensorFlow are the test process's own."""

import json
import pathlib

import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "colab").glob("*.ipynb"))


def _code_cells(path):
    cells = json.loads(path.read_text())["cells"]
    assert all(not cell.get("outputs") for cell in cells), "notebooks are kept without outputs"
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_its_encoder_beats_chance(path, monkeypatch):
    monkeypatch.setenv("TFCONTRAST_NOTEBOOK_EPOCHS", "2")
    cells = _code_cells(path)
    assert 3 <= len(cells) <= 15
    names = {}
    for source in cells:
        lines = [line for line in source.splitlines() if not line.startswith("%")]
        exec(compile("\n".join(lines), str(path), "exec"), names)
    assert names["sheet"].shape[0] == 2 * 64
    assert names["scores"]["raw pixels"] > 0.9
    assert names["scores"]["supcon"] > 0.3
    assert names["history"].history["loss"][-1] < names["history"].history["loss"][0]
