"""A bundle appears whole or not at all, and never over what is not a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import BundleError
from edgekd.export.bundle import check_destination, write_bundle
from edgekd.runtime.bundle import read_manifest, verify


def tensor(name: str) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": [None, 3]}


MANIFEST = {
    "format_version": 1,
    "name": "tiny",
    "target": {"name": "cpu", "runtime": "onnxruntime"},
    "models": {"compressed": "model.onnx", "baseline": "baseline.onnx"},
    "spec": {"inputs": [tensor("x")], "outputs": [tensor("y")]},
    "preprocessing": {},
    "classes": None,
    "task": "other",
    "stages": [{"stage": "quantize", "loss": 0.5}],
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes | Path]:
    baseline = tmp_path / "sources" / "some.onnx"
    baseline.parent.mkdir()
    baseline.write_bytes(b"baseline" * 300_000)  # more than one chunk
    return {"model.onnx": b"model", "baseline.onnx": baseline, "report.html": b""}


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A folder that holds nothing but what write_bundle leaves in it."""
    (tmp_path / "room").mkdir()
    return tmp_path / "room"


def test_writes_what_the_runtime_reads(room: Path, files: dict[str, bytes | Path]) -> None:
    out = write_bundle(room / "deep" / "tiny", files, MANIFEST, overwrite=False)
    manifest = read_manifest(out)
    verify(out, manifest)
    assert sorted(path.name for path in out.iterdir()) == sorted([*files, "manifest.json"])
    assert manifest.data["stages"] == MANIFEST["stages"]
    assert manifest.files["model.onnx"].size == 5
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]
    assert out.stat().st_mode & 0o777 == out.parent.stat().st_mode & 0o777


def test_replaces_a_bundle_only_when_told_to(room: Path, files: dict[str, bytes | Path]) -> None:
    out = write_bundle(room / "tiny", files, MANIFEST, overwrite=False)
    with pytest.raises(BundleError, match="already holds a bundle"):
        write_bundle(out, files, MANIFEST, overwrite=False)
    (out / "model.onnx").write_bytes(b"damaged")
    write_bundle(out, {**files, "model.onnx": b"new"}, MANIFEST, overwrite=True)
    assert (out / "model.onnx").read_bytes() == b"new"
    assert [path.name for path in room.iterdir()] == ["tiny"]


def test_replaces_a_bundle_of_another_format(room: Path, files: dict[str, bytes | Path]) -> None:
    out = room / "tiny"
    out.mkdir()
    (out / "manifest.json").write_text('{"format_version": 99, "files": {"a.bin": {}}}')
    (out / "a.bin").write_bytes(b"")
    write_bundle(out, files, MANIFEST, overwrite=True)
    verify(out, read_manifest(out))


def test_uses_an_empty_folder(room: Path, files: dict[str, bytes | Path]) -> None:
    write_bundle(room, files, MANIFEST, overwrite=False)
    verify(room, read_manifest(room))


@pytest.mark.parametrize("manifest", [None, "{", "[]", "{}", '{"name": "npm package"}'])
def test_never_touches_a_folder_that_is_not_a_bundle(
    room: Path, files: dict[str, bytes | Path], manifest: str | None
) -> None:
    (room / "thesis.tex").write_text("years of work")
    if manifest is not None:
        (room / "manifest.json").write_text(manifest)
    with pytest.raises(BundleError, match="not part of a bundle"):
        write_bundle(room, files, MANIFEST, overwrite=True)
    assert (room / "thesis.tex").read_text() == "years of work"


def test_never_deletes_a_users_file_in_a_bundle(room: Path, files: dict[str, bytes | Path]) -> None:
    out = write_bundle(room / "tiny", files, MANIFEST, overwrite=False)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"notes\.txt"):
        write_bundle(out, files, MANIFEST, overwrite=True)
    assert (out / "notes.txt").exists()


def test_never_replaces_a_file(room: Path, files: dict[str, bytes | Path]) -> None:
    (room / "tiny").write_text("a file")
    with pytest.raises(BundleError, match="is a file"):
        write_bundle(room / "tiny", files, MANIFEST, overwrite=True)


def test_a_source_that_is_missing_leaves_nothing_behind(
    room: Path, files: dict[str, bytes | Path], tmp_path: Path
) -> None:
    files["report.html"] = tmp_path / "nowhere.html"  # the last file: two are already written
    with pytest.raises(BundleError, match=r"nowhere\.html"):
        write_bundle(room / "tiny", files, MANIFEST, overwrite=False)
    assert list(room.iterdir()) == []


def test_a_failure_keeps_the_bundle_that_was_there(
    room: Path, files: dict[str, bytes | Path]
) -> None:
    out = write_bundle(room / "tiny", files, MANIFEST, overwrite=False)
    with pytest.raises(BundleError):
        write_bundle(out, {"model.onnx": room}, MANIFEST, overwrite=True)
    verify(out, read_manifest(out))
    assert [path.name for path in room.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "regression"}, "task must be"),
        ({"models": {"compressed": "other.onnx"}}, "one of the files"),
        ({"accuracy": {"top1": float("nan")}}, "not plain JSON data"),
        ({"accuracy": {1, 2}}, "not plain JSON data"),
    ],
)
def test_refuses_a_manifest_that_could_not_be_read(
    room: Path, files: dict[str, bytes | Path], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        write_bundle(room / "tiny", files, {**MANIFEST, **change}, overwrite=False)
    assert list(room.iterdir()) == []


@pytest.mark.parametrize("name", ["../up.onnx", "a/b", "manifest.json", "", "/abs"])
def test_refuses_names_that_leave_the_folder(room: Path, name: str) -> None:
    with pytest.raises(BundleError, match="plain file name"):
        write_bundle(room / "tiny", {name: b""}, MANIFEST, overwrite=False)
    assert list(room.iterdir()) == []


def test_finds_a_taken_name_before_long_work(room: Path) -> None:
    check_destination(room / "new", overwrite=False)
    (room / "manifest.json").write_text(json.dumps({**MANIFEST, "files": {}}))
    check_destination(room, overwrite=True)
    with pytest.raises(BundleError, match="overwrite"):
        check_destination(room, overwrite=False)
