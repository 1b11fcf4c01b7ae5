"""What a person at a terminal sees: the run's own words, and none of TensorFlow's."""

import os
import pty
import re
import subprocess
import sys
import termios

TOY = [
    "--image_size=8",
    "--width_multiplier=0.125",
    "--augmentation=identity",
    "--train_batch_size=64",
    "--train_steps=4",
]


def test_a_terminal_sees_a_bar_and_no_word_of_tensorflow(tmp_path):
    """In a process of its own, without the variables that silence TensorFlow in the tests."""
    hushed = ("TF_CPP_MIN_LOG_LEVEL", "CUDA_VISIBLE_DEVICES", "TF_ENABLE_ONEDNN_OPTS")
    env = {name: value for name, value in os.environ.items() if name not in hushed}
    env |= {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [*TOY, f"--model_dir={tmp_path}/run", "--monitor_epochs=1", "--knn_k=5"]
    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (40, 120))
    with subprocess.Popen(
        [sys.executable, "-m", "tfcontrast.run", *words],
        env=env,
        cwd=tmp_path,
        stdout=end,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(end)
        shown = b""
        # The other end of a terminal that has closed is an error on Linux.
        try:
            while piece := os.read(terminal, 65536):
                shown += piece
        except OSError:
            pass
        os.close(terminal)
        noise = process.stderr.read().decode()
        assert process.wait() == 0
    assert noise == ""
    text = shown.decode()
    assert re.search(r"\r.*\d+%\|.*/256.* images", text), text
    assert "untrained network" in text
    assert "raw pixels" in text
