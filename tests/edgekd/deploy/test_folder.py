"""All of a folder or nothing, and never over somebody's own files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgekd.deploy.folder import write_folder
from edgekd.errors import BundleError

FILES = {"a.txt": b"one", "1/b.bin": b"\0two"}


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "deployed.json"
    }


def test_writes_and_replaces_its_own(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "deep" / "out", FILES, {"kind": "test"})
    assert content(out) == FILES
    record = json.loads((out / "deployed.json").read_text("utf-8"))
    assert record["kind"] == "test" and record["files"]["1/b.bin"]["bytes"] == 4

    write_folder(out, {"c.txt": b"three"}, {})
    assert content(out) == {"c.txt": b"three"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]  # nothing is left beside it


@pytest.mark.parametrize("name", ["notes.txt", "1/mine.bin", ".hidden"])
def test_a_foreign_file_is_never_touched(tmp_path: Path, name: str) -> None:
    out = write_folder(tmp_path / "out", FILES, {})
    (out / name).write_text("mine")
    with pytest.raises(BundleError, match=f"did not write .*{name}"):
        write_folder(out, {"c.txt": b"three"}, {})
    assert content(out) == {**FILES, name: b"mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_changed_file_is_kept(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", FILES, {})
    (out / "a.txt").write_text("tuned by hand")
    with pytest.raises(BundleError, match=r"a\.txt was changed since"):
        write_folder(out, FILES, {})
    assert content(out)["a.txt"] == b"tuned by hand"


@pytest.mark.parametrize("record", ["", "[]", '{"files": [1]}', '{"files": {"a": {}}}', "[" * 9999])
def test_a_broken_record_makes_all_files_foreign(tmp_path: Path, record: str) -> None:
    out = write_folder(tmp_path / "out", FILES, {})
    (out / "deployed.json").write_text(record)
    with pytest.raises(BundleError, match="did not write"):
        write_folder(out, FILES, {})
    assert content(out) == FILES


def test_an_empty_folder_is_used_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert content(write_folder(tmp_path / "empty", FILES, {})) == FILES
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BundleError, match="is no folder"):
        write_folder(tmp_path / "file", FILES, {})
    with pytest.raises(BundleError, match="cannot write"):
        write_folder(tmp_path / "file" / "below", FILES, {})


def test_links_are_not_followed(tmp_path: Path) -> None:
    own = write_folder(tmp_path / "own", FILES, {})
    (tmp_path / "link").symlink_to(own)
    with pytest.raises(BundleError, match="is no folder"):
        write_folder(tmp_path / "link", FILES, {})
    (own / "1" / "away").symlink_to(tmp_path)
    with pytest.raises(BundleError, match="did not write"):
        write_folder(own, FILES, {})
    assert os.path.islink(tmp_path / "link")  # noqa: PTH114 - the link itself is meant


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(BundleError, match="cannot write"):
        write_folder(tmp_path / "locked" / "out", FILES, {})
