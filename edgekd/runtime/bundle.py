"""Read a bundle's folder: its manifest, and the proof that every file is what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import BundleError
from edgekd.runtime.fields import MANIFEST_NAME
from edgekd.runtime.manifest import FileEntry, Manifest, parse_manifest

_CHUNK = 1 << 20


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``folder/manifest.json``; the files themselves are not looked at.

    Raises BundleError when folder or manifest is missing, or the manifest is not valid.
    """
    try:
        return parse_manifest(read_manifest_data(folder))
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error


def read_manifest_data(folder: Path) -> Any:
    """Return the JSON data of ``folder/manifest.json``, unchecked; raises BundleError."""
    if not folder.is_dir():
        raise BundleError("there is no such folder; give the folder that holds the bundle")
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise BundleError(f"not a bundle, or not a complete one: it has no {MANIFEST_NAME}")
    try:
        return json.loads(path.read_bytes().decode("utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise BundleError(f"{MANIFEST_NAME} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_NAME} is not valid JSON ({error}); copy it again") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def verify(folder: Path, manifest: Manifest) -> None:
    """Check length, then SHA-256, of every file that the manifest lists.

    Raises BundleError that names the file and says whether it is missing, truncated (its length
    differs) or altered (its hash differs).
    """
    _check_sizes(folder, manifest.files)
    for name, entry in manifest.files.items():
        _check_hash(folder, name, entry)


def read_model(folder: Path, manifest: Manifest, role: str) -> bytes:
    """Verify the whole bundle and return the ONNX bytes of the model in ``role``.

    The bytes returned are the bytes that were hashed, so a file that changes afterwards cannot
    slip in. They are held in memory: models over 2 GB and external data are out of scope.
    Raises BundleError for an unknown role and whatever ``verify`` refuses.
    """
    if role not in manifest.models:
        have = ", ".join(sorted(manifest.models))
        raise BundleError(f"{folder}: the bundle has no model {role!r}, only {have}")
    wanted = manifest.models[role]
    return read_files(folder, manifest, [wanted])[wanted]


def read_files(folder: Path, manifest: Manifest, names: Collection[str]) -> dict[str, bytes]:
    """Verify the whole bundle and return the content of its files ``names``, as it was hashed.

    Raises what ``verify`` raises.
    """
    _check_sizes(folder, manifest.files)
    content = {}
    for name, entry in manifest.files.items():
        if name in names:
            content[name] = _read_checked(folder, name, entry)
        else:
            _check_hash(folder, name, entry)
    return content


def _check_sizes(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Compare lengths first: it costs nothing and finds the usual half-finished copy."""
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{folder}: {name} is missing; copy the bundle again")
        _check_size(folder, name, path.stat().st_size, entry)


def _check_size(folder: Path, name: str, size: int, entry: FileEntry) -> None:
    if size != entry.size:
        what = "truncated" if size < entry.size else "too long"
        raise BundleError(
            f"{folder}: {name} is {what} ({size} bytes, not {entry.size}); copy the bundle again"
        )


def _check_hash(folder: Path, name: str, entry: FileEntry) -> None:
    digest = hashlib.sha256()
    try:
        with (folder / name).open("rb") as file:
            for chunk in iter(lambda: file.read(_CHUNK), b""):
                digest.update(chunk)
    except OSError as error:
        raise _unreadable(folder, name, error) from error
    _compare(folder, name, digest.hexdigest(), entry)


def _read_checked(folder: Path, name: str, entry: FileEntry) -> bytes:
    try:
        with (folder / name).open("rb") as file:
            content = file.read(entry.size + 1)  # one more: a file that grew must not pass
    except OSError as error:
        raise _unreadable(folder, name, error) from error
    _check_size(folder, name, len(content), entry)
    _compare(folder, name, hashlib.sha256(content).hexdigest(), entry)
    return content


def _compare(folder: Path, name: str, sha256: str, entry: FileEntry) -> None:
    if sha256 != entry.sha256:
        raise BundleError(
            f"{folder}: {name} was altered (its SHA-256 differs); copy the bundle again"
        )


def _unreadable(folder: Path, name: str, error: OSError) -> BundleError:
    return BundleError(f"{folder}: {name} cannot be read: {error.strerror}")
