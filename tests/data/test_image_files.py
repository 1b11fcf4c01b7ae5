import io
import json
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfcontrast.data import image_files
from tfcontrast.data.image_files import (
    check_images,
    decode_image,
    decode_plain_jpeg,
    explain,
    refuse_absurd_sizes,
)


@pytest.fixture
def pixels():
    """A smooth picture without symmetry, so that JPEG stays close to it and turns show."""
    y, x = np.mgrid[0:24, 0:16]
    return np.stack([x * 15, y * 10, (x + y) * 6], -1).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "webp", "PNG"])
def test_lossless_formats_give_the_pixels(tmp_path, pixels, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "gif":
        pixels = pixels // 64 * 64  # few enough colours for a palette
    Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(decode_image(str(path)), pixels)


def test_content_decides_and_not_the_name(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "a.jpg", "PNG")
    np.testing.assert_array_equal(decode_image(str(tmp_path / "a.jpg")), pixels)


def test_grey_and_palette_and_bilevel(tmp_path, pixels):
    grey = pixels[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        decode_image(str(tmp_path / "grey.png")), np.stack([grey] * 3, -1)
    )
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(
        decode_image(str(tmp_path / "bits.png"))[..., 1], 255 * (grey > 100)
    )
    few = Image.fromarray(pixels).quantize(8)
    few.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        decode_image(str(tmp_path / "palette.png")), np.asarray(few.convert("RGB"))
    )


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    deep = np.linspace(0, 65535, 60).reshape(6, 10).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    expected = np.round(deep / 257.0).astype(np.uint8)
    np.testing.assert_array_equal(
        decode_image(str(tmp_path / "deep.png")), np.stack([expected] * 3, -1)
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_is_composited_on_white(tmp_path, pixels, mode):
    alpha = np.tile(np.array([0, 255, 51, 128], np.uint8), (24, 4))
    path = str(tmp_path / "a.png")
    if mode == "RGBA":
        color = pixels
        Image.fromarray(np.dstack([pixels, alpha])).save(path)
    elif mode == "LA":
        color = np.stack([pixels[..., 0]] * 3, -1)
        Image.fromarray(np.dstack([pixels[..., 0], alpha])).save(path)
    elif mode == "P":
        indices = (alpha == 255).astype(np.uint8)
        image = Image.fromarray(indices).convert("P")
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.save(path, transparency=0)
        color, alpha = np.array([[10, 20, 30], [40, 50, 60]])[indices], indices * 255
    else:  # one colour of an RGB image is declared transparent
        color = pixels.copy()
        color[3:5] = (1, 2, 3)
        Image.fromarray(color).save(path, transparency=(1, 2, 3))
        alpha = np.where((color == (1, 2, 3)).all(-1), 0, 255)
    share = alpha[..., None] / 255.0
    expected = color * share + 255.0 * (1.0 - share)
    np.testing.assert_allclose(decode_image(path).astype(float), expected, atol=1.0)


def test_cmyk_jpeg_becomes_rgb(tmp_path, pixels):
    Image.fromarray(pixels).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    decoded = decode_image(str(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(decoded, Image.open(tmp_path / "a.jpg").convert("RGB"))
    np.testing.assert_allclose(decoded.astype(int), pixels, atol=12)


# What a viewer does to the stored pixels for each EXIF orientation (EXIF 2.32, tag 274).
TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation_is_applied(tmp_path, pixels, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain, turned = tmp_path / f"plain.{suffix}", tmp_path / f"turned.{suffix}"
    Image.fromarray(pixels).save(plain, quality=95)
    Image.fromarray(pixels).save(turned, quality=95, exif=exif)
    expected = TURNS[orientation](decode_image(str(plain)))
    np.testing.assert_array_equal(decode_image(str(turned)), expected)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode_image(str(tmp_path / "a.gif"))[0, 0].tolist() == [255, 0, 0]


def write_bad_files(folder, pixels):
    """One file for each way of being unusable; returns their names."""
    image = Image.fromarray(np.tile(pixels, (8, 8, 1)))
    for suffix in ("jpg", "png", "webp", "bmp", "gif"):
        image.save(folder / f"whole.{suffix}")
        data = (folder / f"whole.{suffix}").read_bytes()
        (folder / f"whole.{suffix}").unlink()
        (folder / f"short.{suffix}").write_bytes(data[: len(data) // 2])
    data = bytearray()
    image.save(folder / "crc.png")
    data = bytearray((folder / "crc.png").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (folder / "crc.png").write_bytes(data)
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("this is no image")
    (folder / "folder.png").symlink_to(folder / "nowhere")
    image.convert("L").save(folder / "tiff.jpg", "TIFF")
    return sorted(path.name for path in folder.iterdir())


def test_every_kind_of_bad_file_is_found_and_the_good_are_not(tmp_path, pixels):
    bad = write_bad_files(tmp_path, pixels)
    good = [f"z{i}.png" for i in range(5)]
    for name in good:
        Image.fromarray(pixels).save(tmp_path / name)
    names = sorted([*good, *bad])
    checked = check_images(str(tmp_path), names)
    assert [names[place] for place, _ in checked.bad] == bad
    reasons = {names[place]: reason for place, reason in checked.bad}
    assert reasons["zero.jpg"] == "empty file"
    assert reasons["text.jpg"] == "not an image of a known format"
    assert all(reasons.values())


def test_absurd_sizes_are_bad(tmp_path):
    # 20,000 x 20,000 bilevel zeros: 50 KB on disk, 1.2 GB as RGB.
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    ((place, reason),) = check_images(str(tmp_path), ["bomb.png"]).bad
    assert place == 0
    assert "pixels" in reason


def claims(suffix, width, height):
    """A small file whose header claims another size."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, {"png": "PNG", "jpg": "JPEG"}[suffix])
    data = bytearray(file.getvalue())
    if suffix == "png":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    else:
        at = data.index(b"\xff\xc0") + 5  # in the start of the frame, after its length and depth
        data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(("suffix", "side"), [("png", 30_000), ("jpg", 65_500)])
def test_absurd_headers_are_refused_before_anything_is_decoded(tmp_path, suffix, side):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(claims(suffix, side, side))
    ((_, reason),) = check_images(str(tmp_path), [path.name]).bad
    assert "pixels" in reason
    assert explain(str(path)) == reason
    with pytest.raises(tf.errors.InvalidArgumentError, match="more than 178956970 pixels"):
        refuse_absurd_sizes(tf.constant(path.read_bytes()))
    if suffix == "jpg":
        with pytest.raises(tf.errors.InvalidArgumentError, match="more than 178956970 pixels"):
            decode_plain_jpeg(tf.constant(str(path)))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_bound_on_headers_is_exact(monkeypatch, suffix):
    monkeypatch.setattr(image_files, "MAX_PIXELS", 300 * 500)
    good = claims(suffix, 300, 500)
    assert refuse_absurd_sizes(tf.constant(good)).numpy() == good
    for sides in ((301, 500), (300, 501)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="more than 150000 pixels"):
            refuse_absurd_sizes(tf.constant(claims(suffix, *sides)))


@pytest.mark.parametrize("suffix", ["bmp", "gif"])
def test_other_formats_pass_the_check_of_headers(tmp_path, pixels, suffix):
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    data = (tmp_path / f"a.{suffix}").read_bytes()
    assert refuse_absurd_sizes(tf.constant(data)).numpy() == data


def test_the_bound_does_not_depend_on_pillows_global(tmp_path, pixels, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 24 * 16 - 1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="16x24 pixels"):
        decode_image(str(tmp_path / "a.png"))


def test_plain_jpegs_are_those_that_both_decoders_agree_on(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.tile(pixels, (4, 4, 1)))
    image.save(tmp_path / "0.jpg")
    image.convert("L").save(tmp_path / "1.jpg")
    image.save(tmp_path / "2.jpg", progressive=True, quality=30)
    image.save(tmp_path / "3.jpg", exif=exif)
    image.save(tmp_path / "4.jpg", "PNG")
    image.save(tmp_path / "5.png")
    names = ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.png"]
    checked = check_images(str(tmp_path), names)
    assert not checked.bad
    # Both link libjpeg-turbo on the supported platforms; a PNG named .jpg may be read by either.
    assert set(checked.plain) - {4} == {0, 1, 2}
    for place in checked.plain:
        path = str(tmp_path / names[place])
        np.testing.assert_array_equal(decode_plain_jpeg(path), decode_image(path))


@pytest.fixture
def remembering(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(image_files, "_REMEMBERED_FROM", 2)
    calls = []
    original = image_files._check
    monkeypatch.setattr(image_files, "_check", lambda path: calls.append(path) or original(path))
    return calls


def test_the_check_of_a_large_folder_is_remembered(tmp_path, pixels, remembering):
    root = tmp_path / "images"
    root.mkdir()
    Image.fromarray(pixels).save(root / "a.jpg")
    (root / "b.jpg").write_text("no image")
    names = ["a.jpg", "b.jpg"]
    first = check_images(str(root), names)
    assert len(remembering) == 2
    assert check_images(str(root), names) == first
    assert len(remembering) == 2
    Image.fromarray(pixels).save(root / "b.jpg")  # mended: everything is looked at again
    assert check_images(str(root), names).bad == []
    assert len(remembering) == 4


def test_damaged_memory_is_not_trusted(tmp_path, pixels, remembering, caplog):
    root = tmp_path / "images"
    root.mkdir()
    names = ["a.png", "b.png"]
    for name in names:
        Image.fromarray(pixels).save(root / name)
    first = check_images(str(root), names)
    (memory,) = (tmp_path / "cache").rglob("*.json")
    assert json.loads(memory.read_text()) == {"bad": [], "plain": []}
    for text in ("", "[1]", '{"bad": [[0, "x"]]}', '{"bad": 3, "plain": []}'):
        memory.write_text(text)
        assert check_images(str(root), names) == first
    assert "damaged" in caplog.text


def test_a_cache_that_cannot_be_written_does_not_stop_the_run(tmp_path, pixels, remembering):
    (tmp_path / "cache").write_text("a file where the folder should be")
    names = ["a.png", "b.png"]
    for name in names:
        Image.fromarray(pixels).save(tmp_path / name)
    assert check_images(str(tmp_path), names).bad == []


def test_small_folders_leave_no_trace(tmp_path, pixels, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    check_images(str(tmp_path), ["a.png"])
    assert not (tmp_path / "cache").exists()
