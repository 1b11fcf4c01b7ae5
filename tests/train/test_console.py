import os
import sys

import pytest

from tfcontrast.errors import UserError
from tfcontrast.train.console import percent, plain, quiet, say, table


def test_say_prints_a_line(capsys):
    say("one")
    say()
    assert capsys.readouterr().out == "one\n\n"


def test_table_aligns_the_first_column_left_and_the_others_right():
    assert table(["", "top-1"], [["kNN", "98.5"], ["a longer name", "7.0"]]).splitlines() == [
        "                 top-1",
        "  -------------  -----",
        "  kNN             98.5",
        "  a longer name    7.0",
    ]


def test_plain_is_one_line_without_the_names_of_nodes():
    said = "{{function_node __wrapped__SaveV2}} /a/b;\n No space  left [Op:SaveV2] name: "
    assert plain(said) == "/a/b; No space left"


@pytest.mark.parametrize(
    ("share", "text"), [(0.985, "98.5"), (1.0, "100.0"), (0, "0.0"), (None, "-")]
)
def test_percent(share, text):
    assert percent(share) == text


def speak(text, then=None):
    os.write(2, text.encode())
    if then is not None:
        raise then


def test_quiet_hides_what_is_written_below_python(capfd):
    with quiet(True):
        speak("E0000 cuda_dnn.cc noise\n")
    speak("after\n")
    assert capfd.readouterr().err == "after\n"


def test_quiet_off_hides_nothing(capfd):
    with quiet(False):
        speak("shown\n")
    assert capfd.readouterr().err == "shown\n"


def test_quiet_shows_what_was_said_before_a_failure(capfd):
    with pytest.raises(ImportError), quiet(True):
        speak("libcudart is of another version\n", then=ImportError())
    assert capfd.readouterr().err == "libcudart is of another version\n"


def test_quiet_keeps_silent_when_the_user_is_told_why(capfd):
    with pytest.raises(UserError), quiet(True):
        speak("noise\n", then=UserError("--num_replicas=9 needs as many GPUs"))
    assert capfd.readouterr().err == ""


def test_quiet_gives_the_descriptor_back():
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    for _ in range(3):
        with quiet(True):
            speak("noise")
    after = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    assert after == before
