import json

import pytest

from tfcontrast.errors import UserError
from tfcontrast.train.manifest import FORMAT, hash_file, hash_of, read_manifest

CONTENT = {"variables.index": b"index", "variables.data-00000-of-00001": b"data"}


@pytest.fixture
def checkpoint(tmp_path):
    """A function that writes a checkpoint of step 7 with a manifest of the given fields."""

    def make(*, sealed=True, **fields):
        folder = tmp_path / "step_00000007"
        folder.mkdir()
        for name, content in CONTENT.items():
            (folder / name).write_bytes(content)
        files = {
            name: {"bytes": len(content), "sha256": hash_file(folder / name)}
            for name, content in CONTENT.items()
        }
        manifest = {
            **{"format": FORMAT, "step": 7, "config": {"seed": 1}, "logs": {"loss": 0.1}},
            **{"files": files, "versions": {}},
            **fields,
        }
        if sealed:
            manifest["sha256"] = hash_of(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return make


def test_a_whole_one_is_read(checkpoint):
    manifest = read_manifest(checkpoint())
    assert (manifest["step"], manifest["logs"], manifest["config"]) == (
        7,
        {"loss": 0.1},
        {"seed": 1},
    )
    # echo -n data | sha256sum
    assert manifest["files"]["variables.data-00000-of-00001"] == {
        "bytes": 4,
        "sha256": "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7",
    }


def test_one_without_a_hash_of_its_own_is_read(checkpoint):
    assert "sha256" not in read_manifest(checkpoint(sealed=False))


def test_numbers_that_are_not_finite_are_read(checkpoint):
    assert read_manifest(checkpoint(logs={"loss": float("inf")}))["logs"]["loss"] == float("inf")


def test_the_hash_is_of_the_content_not_of_its_layout():
    assert hash_of({"a": (1, 2.5), "b": "é"}) == hash_of({"b": "é", "a": [1, 2.5], "sha256": "x"})
    assert hash_of({"a": 1}) != hash_of({"a": 2})


def test_every_flipped_bit_of_the_manifest_is_seen_or_harmless(checkpoint):
    folder = checkpoint()
    path, whole = folder / "manifest.json", read_manifest(folder)
    content = path.read_bytes()
    harmless = 0
    for place in range(len(content)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        try:
            found = read_manifest(folder)
        except UserError:
            continue
        harmless += 1
        assert {name: found[name] for name in whole if name != "sha256"} == {
            name: whole[name] for name in whole if name != "sha256"
        }
    assert harmless < 60  # bits of blanks, and of the name of the hash


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"format": 99}, "it has format 99; this version reads 1"),
        ({"step": None}, "states no step"),
        ({"step": True}, "states no step"),
        ({"step": -7}, "states no step"),
        ({"step": 8}, "is of step 8"),
        ({"config": None}, "states no options"),
        ({"logs": {"loss": "low"}}, "numbers that are none"),
        ({"logs": None}, "numbers that are none"),
        ({"files": None}, "does not name the files"),
        ({"files": {"variables.index": {}}}, "does not name the files"),
        ({"files": {"variables.index": {}, "../x": {}}}, "variables.index is damaged"),
        ({"files": {"../x": {}, "variables.index": {}}}, r"names a file '\.\./x'"),
        ({"files": {"/dev/zero": {}, "variables.index": {}}}, "names a file '/dev/zero'"),
        ({"files": {"..": {}, "variables.index": {}}}, r"names a file '\.\.'"),
        ({"files": {"x" * 400: 3, "variables.index": {}}}, r"names a file 'x+ ?\)"),
        ({"files": {"absent": {}, "variables.index": {}}}, "absent is missing"),
    ],
)
def test_what_is_refused_and_why(checkpoint, fields, reason):
    folder = checkpoint(**fields)
    with pytest.raises(UserError, match=rf"step_00000007 is not a whole checkpoint .*{reason}"):
        read_manifest(folder)


def test_the_name_of_a_copy_is_free(checkpoint):
    folder = checkpoint()
    assert read_manifest(folder.rename(folder.with_name("best")))["step"] == 7
