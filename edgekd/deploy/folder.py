"""Write a folder, all of it or nothing, and never over somebody's own files."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import edgekd
from edgekd.errors import BundleError

RECORD_NAME = "deployed.json"


def write_folder(out: Path, files: Mapping[str, bytes], record: Mapping[str, Any]) -> Path:
    """Write ``files`` (relative path -> content) as the folder ``out``; return its absolute path.

    ``deployed.json`` in it holds ``record``, and length and SHA-256 of each file. The folder is
    written beside ``out`` and renamed. What an earlier call wrote there and nobody changed since is
    replaced; so is an empty folder.

    Raises BundleError when anything else is at ``out``, or it cannot be written; nothing is left
    behind then.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 - a link stays what the user named
    check_folder(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = _sibling(out, "tmp")
        temporary.mkdir()
        try:
            for name, content in files.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            (temporary / RECORD_NAME).write_text(_record(files, record), "utf-8")
            check_folder(out)
            _move_into_place(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # after the rename there is none
    except OSError as error:
        raise BundleError(f"cannot write {out}: {error.strerror or error}") from error
    return out


def check_folder(out: Path) -> None:
    """Raise BundleError unless ``write_folder`` may write to ``out``."""
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_dir():
        raise BundleError(f"{out} is no folder; choose one that does not exist yet")
    try:
        found = {_name(out, path) for path in out.rglob("*") if not _is_plain_folder(path)}
        if not found:
            return
        own = _own_files(out)
        foreign = sorted(found - {RECORD_NAME, *own})
        changed = sorted(
            name for name in found & set(own) if _sha256((out / name).read_bytes()) != own[name]
        )
    except OSError as error:
        raise BundleError(f"{out} cannot be read: {error.strerror}") from error
    if foreign:
        raise BundleError(
            f"{out} holds files that deploy did not write ({foreign[0]}); choose another folder"
        )
    if changed:
        raise BundleError(
            f"{out}: {changed[0]} was changed since deploy wrote it; move it away, or choose "
            "another folder"
        )


def _own_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of what an earlier call wrote, by name; empty where there was none."""
    try:
        files = json.loads((folder / RECORD_NAME).read_text("utf-8"))["files"]
        return {str(name): str(entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}


def _record(files: Mapping[str, bytes], record: Mapping[str, Any]) -> str:
    entries = {
        name: {"sha256": _sha256(content), "bytes": len(content)} for name, content in files.items()
    }
    data = {"edgekd": edgekd.__version__, **record, "files": entries}
    return json.dumps(data, indent=2) + "\n"


def _move_into_place(folder: Path, out: Path) -> None:
    """Rename ``folder`` to ``out``; what was there is put back when that fails."""
    if not out.exists():
        folder.rename(out)
        return
    old = _sibling(out, "old")
    out.rename(old)
    try:
        folder.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _sibling(out: Path, kind: str) -> Path:
    return out.parent / f".{out.name[:100]}.{kind}-{secrets.token_hex(4)}"


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _is_plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
