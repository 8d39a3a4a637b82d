"""Finished steps on disk, so that the same command continues where an earlier run stopped.

A step's key is the hash of everything that decides its result: the inputs' hashes, the settings
of this step and of all before it, the versions of the libraries and edgekd's own code. A step's
folder appears by a rename when it is complete, so a killed process leaves no half step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

from edgekd.errors import EdgekdError
from edgekd.processes.group import by_first


def default_cache() -> Path:
    """Return ``$EDGEKD_CACHE``, or the user's cache folder for edgekd."""
    return Path(os.environ.get("EDGEKD_CACHE") or platformdirs.user_cache_dir("edgekd"))


@cache
def code_digest() -> str:
    """Return the SHA-256 of edgekd's own source files: another version never reuses a step."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def step_key(parts: Mapping[str, Any]) -> str:
    """Return the key of plain JSON data, whatever the order of its entries."""
    text = json.dumps(parts, sort_keys=True, allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def replace_file(path: Path, *parts: bytes | memoryview) -> None:
    """Give ``path`` its content at once, its folder too; raises OSError and leaves nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):  # it is the first error that counts
            temporary.unlink(missing_ok=True)


class StepCache:
    """Folders of files under ``root``, one a key.

    In a run of several processes all of them ask and store together; the first one decides what is
    there and writes it, so that all take the same way.
    """

    def __init__(self, root: Path):
        self.root = root

    def folder(self, key: str) -> Path | None:
        """Return the folder of a finished step, or None."""
        if not by_first(lambda: self._is_finished(key)):
            return None
        if not self._is_finished(key):
            raise EdgekdError(
                f"the first process of this run stored a step in {self.root}, and this machine "
                "does not have it; give --cache a folder that all machines share"
            )
        return self.root / key

    def record(self, key: str) -> dict[str, Any]:
        """Return the record of a finished step; KeyError if there is none."""
        if not self._is_finished(key):
            raise KeyError(key)
        path = self.root / key / "record.json"
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found

    def _is_finished(self, key: str) -> bool:
        return (self.root / key / "record.json").is_file()

    def store(self, key: str, files: Mapping[str, bytes], record: Mapping[str, Any]) -> Path:
        """Write a finished step and return its folder; an earlier one of that key stays."""

        def write(folder: Path) -> None:
            for name, content in files.items():
                (folder / name).write_bytes(content)

        return self.build(key, write, record)

    def partial(self, key: str) -> Path:
        """Return the folder for what a step that is not finished has done so far; it may exist."""
        return self.root / f"{key}.partial"

    def discard_partial(self, key: str) -> None:
        """Remove that folder, if it is there."""
        shutil.rmtree(self.partial(key), ignore_errors=True)

    def build(self, key: str, write: Callable[[Path], None], record: Mapping[str, Any]) -> Path:
        """Let ``write`` fill a new folder file by file, and give it the place of ``key``.

        For what is too large to hold in memory as ``store`` takes it. Until ``write`` returns, the
        folder is a hidden one that nobody finds; if it raises, the folder is removed.
        """
        by_first(lambda: self._build(key, write, record))
        return self.root / key

    def _build(self, key: str, write: Callable[[Path], None], record: Mapping[str, Any]) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f".{key}.{secrets.token_hex(4)}"
        temporary.mkdir()
        try:
            write(temporary)
            text = json.dumps(record, indent=1, allow_nan=False)
            (temporary / "record.json").write_text(text, "utf-8")
            target = self.root / key
            try:
                temporary.rename(target)
            except OSError:
                if not self._is_finished(key):  # what is there was not finished by a rename
                    _replace(target, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _replace(target: Path, by: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    try:
        by.rename(target)
    except OSError:
        if not (target / "record.json").is_file():  # else another process came first
            raise
