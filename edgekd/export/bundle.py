"""Write a bundle so that a reader sees all of it or nothing: temporary folder, then rename."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from edgekd.errors import BundleError
from edgekd.runtime.bundle import read_manifest, read_manifest_data, verify
from edgekd.runtime.fields import MANIFEST_NAME, SIGNATURE_NAME
from edgekd.runtime.manifest import is_plain_name

_CHUNK = 1 << 20


def write_bundle(
    out: Path, files: Mapping[str, bytes | Path], manifest: Mapping[str, Any], *, overwrite: bool
) -> Path:
    """Write ``files`` and ``manifest.json`` as the bundle ``out`` and return its absolute path.

    ``files`` maps plain names to content, or to the file to copy. ``manifest`` is plain JSON
    data; its ``files`` entry, with every length and SHA-256, is filled in here. The bundle is
    written beside ``out``, read back, verified and renamed, so ``out`` is never half-written.

    An empty folder at ``out`` is used. A bundle at ``out`` is replaced when ``overwrite`` is set,
    its signature too, which was for another manifest; any other folder or file, or a bundle with
    foreign files in it, is never touched.

    Raises BundleError when ``out`` is taken, a file cannot be read or written, or the manifest is
    not valid; nothing is left behind then.
    """
    out = Path(out).resolve()
    check_destination(out, overwrite=overwrite)
    for name in files:
        if not is_plain_name(name):
            raise BundleError(f"{name!r} cannot be a file of a bundle: use a plain file name")
    try:
        with _temporary_sibling(out) as folder:
            entries = {name: _write(folder / name, source) for name, source in files.items()}
            _write(folder / MANIFEST_NAME, _to_json({**manifest, "files": entries}))
            verify(folder, read_manifest(folder))
            _flush_folder(folder)
            check_destination(out, overwrite=overwrite)  # hours may have passed for the caller
            _move_into_place(folder, out)
    except OSError as error:
        raise BundleError(f"cannot write the bundle {out}: {error}") from error
    return out


def check_destination(out: Path, *, overwrite: bool) -> None:
    """Raise BundleError unless a bundle may be written to ``out``; see ``write_bundle``.

    Call it before long work, so that a taken name is found at the start and not at the end.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise BundleError(f"{out} is a file; choose a folder that does not exist yet")
    entries = {path.name for path in out.iterdir()}
    if not entries:
        return
    foreign = sorted(entries - _own_files(out))
    if foreign:
        raise BundleError(
            f"{out} holds files that are not part of a bundle ({foreign[0]}); choose another folder"
        )
    if not overwrite:
        raise BundleError(f"{out} already holds a bundle; choose another folder or overwrite it")


def _own_files(folder: Path) -> set[str]:
    """Return what belongs to the bundle in ``folder``: of any version, and damaged ones too."""
    try:
        data = read_manifest_data(folder)
    except BundleError:
        return set()
    if not isinstance(data, dict) or "format_version" not in data:
        return set()
    files = data.get("files")
    return {MANIFEST_NAME, SIGNATURE_NAME, *(files if isinstance(files, dict) else ())}


@contextlib.contextmanager
def _temporary_sibling(out: Path) -> Iterator[Path]:
    """Yield a new folder beside ``out`` (renames work only within a file system); remove it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = _sibling(out, "tmp")
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # after the rename there is nothing to remove


def _sibling(out: Path, kind: str) -> Path:
    return out.parent / f".{out.name}.{kind}-{secrets.token_hex(4)}"


def _write(path: Path, source: bytes | Path) -> dict[str, Any]:
    """Write one file to the disk itself and return its entry for the manifest."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in _chunks(source):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        _flush(file)
    return {"sha256": digest.hexdigest(), "bytes": size}


def _chunks(source: bytes | Path) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _flush(file: BinaryIO) -> None:
    """Wait until the content is on the disk, so that no power cut leaves a name without it."""
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows cannot open folders, and needs no flush of them
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _to_json(manifest: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(manifest, indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BundleError(f"the manifest is not plain JSON data: {error}") from error
    return (text + "\n").encode("utf-8")


def _move_into_place(folder: Path, out: Path) -> None:
    """Rename ``folder`` to ``out``; what was there is put back when that fails."""
    if not out.exists():
        folder.rename(out)
    else:
        old = _sibling(out, "old")
        out.rename(old)
        try:
            folder.rename(out)
        except BaseException:
            old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)  # the new bundle is complete either way
    _flush_folder(out.parent)
