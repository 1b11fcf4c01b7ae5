import functools
import logging
import os
import re
import struct
import threading
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfcontrast import data as data_lib
from tfcontrast import run
from tfcontrast.augment import ViewRecipe
from tfcontrast.data.bad_images import BadImages, first_line, plain_errors, verdict
from tfcontrast.errors import UserError
from tfcontrast.train.tensorboard import TensorBoard

COUNT = 1000


def made(total=10, limit=0.3, told=None):
    return BadImages(
        "here", total, limit=limit, name="file{}".format, explain="reason {}".format,
        told=set() if told is None else told,
    )  # fmt: skip


def test_each_is_named_once_and_counted(caplog):
    told = set()
    images = made(told=told)
    images.report([3, 5])
    images.report([5, 3])
    images.report([5, 7], ["known before", "too short"])
    made(told=told).report([7, 3])  # opened again
    assert [record.getMessage() for record in caplog.records] == [
        "left out 2 of 10 images in here: file3 (reason 3); file5 (reason 5)",
        "left out 3 of 10 images in here: file7 (too short)",
    ]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_too_many_are_refused_again_and_again():
    images = made()
    images.report([0, 1, 2])
    for places in ([3], [0]):
        with pytest.raises(UserError, match=r"^4 of 10 images in here .*=0\.3 accepts: file3 \("):
            images.report(places)
    with pytest.raises(UserError, match="10 of 10"):
        made(limit=1.0).report(list(range(10)))
    assert made(limit=0.29).accepted == 2


def test_a_long_list_is_cut_short():
    with pytest.raises(UserError, match=r"file19 \(reason 19\); and 30 more$"):
        made(total=100).report(list(range(50)))


def test_threads_name_an_image_once(caplog):
    images = made()
    threads = [threading.Thread(target=images.report, args=([1, 2],)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caplog.records) == 1


def test_an_error_within_a_data_set_comes_back_as_it_was():
    def fail(_):
        raise verdict("the reason")

    def other(_):
        raise ValueError("something else")

    for function, kind, message in ((fail, UserError, "^the reason$"), (other, Exception, "else")):
        dataset = tf.data.Dataset.range(3).map(
            lambda i, f=function: tf.numpy_function(f, [i], tf.int64)
        )
        with pytest.raises(kind, match=message), plain_errors():
            list(dataset)
    with pytest.raises(UserError, match="direct"), plain_errors():
        raise UserError("direct")


def test_first_line():
    assert first_line(ValueError("a\nb")) == "a"
    assert first_line(ValueError()) == "ValueError"
    assert first_line(tf.errors.NotFoundError(None, None, "x\ny")) == "x"


def pixels_of(place):
    return np.random.default_rng(place).integers(0, 255, (10 + place % 7, 12, 3), np.uint8)


def claim_size(png, side):
    """A PNG file that claims to be of another size; its checksum is right."""
    head = png[12:16] + struct.pack(">II", side, side) + png[24:29]
    return png[:12] + head + struct.pack(">I", zlib.crc32(head)) + png[33:]


def write_odd(path, kind):
    """Replaces an image; gives the pixels that are to be seen, None when there are none."""
    whole = path.read_bytes()
    pixels = np.asarray(Image.open(path).convert("RGB"))
    image = Image.fromarray(pixels)
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no image")
    elif kind == "bomb":
        path.write_bytes(claim_size(whole, 30_000))
    elif kind == "cmyk":
        image.convert("CMYK").save(path, "JPEG", quality=100, subsampling=0)
        return np.asarray(Image.open(path).convert("RGB"))
    elif kind == "deep":
        deep = pixels[..., 0].astype(np.uint16) * 257
        Image.fromarray(deep).save(path, "PNG")
        return np.repeat(pixels[..., :1], 3, -1)
    elif kind == "animated":
        frames = [Image.new("RGB", (12, 9), color) for color in ("red", "blue")]
        frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
        return np.tile(np.array([255, 0, 0], np.uint8), (9, 12, 1))
    else:  # turned by a camera's tag
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(path, "PNG", exif=exif)
        return np.rot90(pixels, -1)
    return None


BROKEN = ["truncated", "empty", "text", "bomb"]
ODD = ["cmyk", "deep", "animated", "turned"]


def order_of(source, steps=19):
    recipe = (ViewRecipe(image_size=4),)
    options = {"batch_size": 100, "seed": 1, "unfinished": True}  # tracing the views takes longer
    batches = data_lib.train_dataset(source, recipe, **options).take(steps)
    return np.concatenate([batch["index"] for batch in batches])


@pytest.mark.slow
def test_a_thousand_images_of_which_twenty_are_odd(tmp_path, caplog, capsys):
    train = tmp_path / "pile" / "train"
    for label in "ab":
        (train / label).mkdir(parents=True)
    paths = [train / "ab"[i * 2 // COUNT] / f"{i:04}.png" for i in range(COUNT)]
    for place, path in enumerate(paths):
        Image.fromarray(pixels_of(place)).save(path)
    name = f"folder:{tmp_path}/pile"
    before = order_of(data_lib.open_source(name, "train"))
    shown = [str(path.relative_to(train)) for path in paths]
    share = data_lib.stratified_split(np.repeat([0, 1], COUNT // 2), 0.1, seed=0)[0]
    odd = share[np.random.default_rng(0).choice(len(share), 20, replace=False)]
    expected = {p: write_odd(paths[p], [*BROKEN, *ODD][i % 8]) for i, p in enumerate(odd)}
    broken = sorted(place for place, pixels in expected.items() if pixels is None)
    assert len(broken) == 12

    source = data_lib.open_source(name, "train", max_bad_images=0.02)
    (line,) = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert line.startswith(f"left out 12 of 900 images in {train}: ")
    assert line.count("(900000000 pixels)") == 3  # not even decoded
    assert [part.split(" (")[0] for part in line.split(": ", 1)[1].split("; ")] == [
        shown[place] for place in broken
    ]
    assert share[np.flatnonzero(source.bad)].tolist() == broken
    for place, pixels in expected.items():
        if pixels is not None:  # odd, but an image
            got = source.load(tf.constant(np.searchsorted(share, place), tf.int64))
            np.testing.assert_array_equal(got, pixels)
    after = order_of(source)
    moved = np.flatnonzero(after != before)
    assert set(before[moved]) == set(np.flatnonzero(source.bad))  # seen in more than two epochs
    assert not source.bad[after].any()

    # half of all: one line and nothing else
    for path in paths[::2]:
        path.write_bytes(path.read_bytes()[:40])
    caplog.clear()
    words = [f"--dataset={name}/", f"--model_dir={tmp_path}/run", "--train_batch_size=32"]
    assert run.main(["run", *words]) == 2
    said = capsys.readouterr()
    assert re.match(r"error: 4\d\d of 900 images in .* cannot be read, more than --max", said.err)
    assert said.err.count("\n") == 1
    assert len(said.err) < 3000
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_images_that_vanish_in_a_run_stand_in_and_then_stop_it(
    tmp_path, caplog, capsys, monkeypatch
):
    """Deleted after the check: the run goes on; too many: it stops with one line."""
    train = tmp_path / "pile" / "train"
    (train / "a").mkdir(parents=True)
    (tmp_path / "pile" / "test" / "a").mkdir(parents=True)
    for place in range(40):
        Image.fromarray(pixels_of(place)).save(train / "a" / f"{place:02}.jpg")
    Image.fromarray(pixels_of(0)).save(tmp_path / "pile" / "test" / "a" / "0.png")
    opened = data_lib.open_source
    gone = ["05", "31"]

    def open_and_lose(*args, **options):
        source = opened(*args, **options)
        for stem in gone:
            if os.path.exists(train / "a" / f"{stem}.jpg"):
                os.unlink(train / "a" / f"{stem}.jpg")
        return source

    monkeypatch.setattr(data_lib, "open_source", open_and_lose)
    # Compiling the views, and tracing those of the picture, takes longer than the few steps.
    plain = functools.partial(data_lib.train_dataset, jit_compile=False)
    monkeypatch.setattr(data_lib, "train_dataset", plain)
    monkeypatch.setattr(data_lib, "preview", lambda *_args, **_options: ())
    monkeypatch.setattr(TensorBoard, "write_views", lambda *_args, **_options: None)
    words = ["--method=simclr", f"--dataset=folder:{tmp_path}/pile/", "--image_size=8"]
    words += ["--resnet_depth=10", "--width_multiplier=0.125", "--augmentation=identity"]
    words += ["--train_batch_size=10", "--train_steps=4", "--max_bad_images=0.1", "--mode=train"]
    words += ["--holdout_fraction=0", "--nolineareval_while_pretraining", "--optimizer=sgd"]
    assert run.main(["run", *words, f"--model_dir={tmp_path}/run"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert f"on folder:{tmp_path}/pile:" in said.out  # without the slash
    text = caplog.text
    for stem in gone:
        assert text.count(f"a/{stem}.jpg (No such file or directory)") == 1
    gone += [f"{place:02}" for place in range(8, 14)]
    assert run.main(["run", *words, f"--model_dir={tmp_path}/again"]) == 2
    said = capsys.readouterr()
    assert re.search(
        r"^error: \d of 38 images in .*train cannot be read, more than --max_bad_images=0\.1 "
        r"accepts: a/\d\d\.jpg \(No such file",
        said.err,
    )
    assert said.err.count("\n") == 1
