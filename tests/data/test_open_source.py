import subprocess
import sys

import pytest

from tfcontrast.data import open_source, source_splits
from tfcontrast.errors import UserError


def test_importing_the_package_does_not_import_the_data_sets():
    # TensorFlow itself imports scikit-learn where it is installed, but not its data sets.
    code = (
        "import sys, tfcontrast.data; slow = ('tensorflow_datasets', 'sklearn.datasets'); "
        "sys.exit(str([name for name in slow if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == "[]"


def test_names_choose_the_kind_of_source(tmp_path):
    assert open_source("digits", "train").name == "digits"
    assert source_splits("digits") == ("train", "test")
    with pytest.raises(UserError, match="does not exist"):
        source_splits(f"folder:{tmp_path}/nowhere")
    with pytest.raises(UserError, match="is not prepared in"):
        source_splits("mnist", data_dir=str(tmp_path))
    with pytest.raises(UserError, match="Received: ''"):
        open_source("", "train")
