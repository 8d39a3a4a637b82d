"""Read a bundle's folder: its manifest, and the proof that every file is what was written."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from edgekd.errors import BundleError
from edgekd.runtime.fields import MANIFEST_NAME
from edgekd.runtime.files import open_file, size_of
from edgekd.runtime.manifest import FileEntry, Manifest, parse_manifest
from edgekd.runtime.onnx_file import check_onnx
from edgekd.runtime.strict_json import parse_json
from edgekd.runtime.tensors import one_line

# Bytes. The largest manifest so far has 0.3 MB; a hostile one of this size takes 0.5 GB to read.
LARGEST_MANIFEST = 16 << 20
LARGEST_MODEL = 2**31 - 1  # bytes: protobuf's limit for ONNX, and models are held in memory
_CHUNK = 1 << 20


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``folder/manifest.json``; neither signature nor files are looked at.

    What opens models or believes what is written here wants ``trust.read_trusted_manifest``.
    Raises BundleError when folder or manifest is missing, or the manifest is not valid.
    """
    try:
        return parse_manifest(read_manifest_data(folder))
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error


def read_manifest_data(folder: Path) -> Any:
    """Return the JSON data of ``folder/manifest.json``, unchecked; raises BundleError."""
    return parse_json(read_manifest_bytes(folder), MANIFEST_NAME)


def read_manifest_bytes(folder: Path) -> bytes:
    """Return the content of ``folder/manifest.json``; raises BundleError."""
    try:
        if not folder.is_dir():
            raise BundleError("there is no such folder; give the folder that holds the bundle")
        if not (folder / MANIFEST_NAME).exists():
            raise BundleError(f"not a bundle, or not a complete one: it has no {MANIFEST_NAME}")
    except (OSError, ValueError) as error:  # a name that is too long, or no right to look
        raise BundleError(f"the folder cannot be read: {one_line(error)}") from error
    return read_small(folder, MANIFEST_NAME, LARGEST_MANIFEST)


def read_small(folder: Path, name: str, largest: int) -> bytes:
    """Return a file's content; raises BundleError for one of more than ``largest`` bytes."""
    content = b""
    if size_of(folder, name) <= largest:
        content = _read(folder, name, largest + 1)
        if len(content) <= largest:
            return content
    raise BundleError(f"{name} is larger than {largest} bytes: it is none that edgekd wrote")


def verify(folder: Path, manifest: Manifest) -> None:
    """Check length, then SHA-256, of every file that the manifest lists.

    Raises BundleError that names the file and says whether it is missing, truncated (its length
    differs) or altered (its hash differs).
    """
    read_files(folder, manifest, ())


def verify_models(folder: Path, manifest: Manifest) -> None:
    """Verify the whole bundle, for those who will open its models by path.

    Raises what ``verify`` raises, and BundleError for a model that reads further files.
    """
    for name in sorted(onnx_files(manifest)):  # one after the other: they are held in memory
        read_files(folder, manifest, (name,))


def read_model(folder: Path, manifest: Manifest, role: str) -> bytes:
    """Verify the whole bundle and return the ONNX bytes of the model in ``role``.

    The bytes returned are the bytes that were hashed, so a file that changes afterwards cannot
    slip in. They are held in memory: models over 2 GB and external data are out of scope.
    Raises BundleError for an unknown role and whatever ``read_files`` refuses.
    """
    if role not in manifest.models:
        have = ", ".join(sorted(manifest.models))
        raise BundleError(f"{folder}: the bundle has no model {role!r}, only {have}")
    wanted = manifest.models[role]
    return read_files(folder, manifest, [wanted])[wanted]


def read_files(folder: Path, manifest: Manifest, names: Collection[str]) -> dict[str, bytes]:
    """Verify the whole bundle and return the content of its files ``names``, as it was hashed.

    Raises what ``verify`` raises, and BundleError for a model that reads further files.
    """
    models = onnx_files(manifest)
    content = {}
    try:
        _check_sizes(folder, manifest.files)
        for name, entry in manifest.files.items():
            if name in names:
                content[name] = _read_checked(folder, name, entry)
            else:
                _check_hash(folder, name, entry)
        for name in models.intersection(content):
            check_onnx(content[name], name)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error
    return content


def onnx_files(manifest: Manifest) -> set[str]:
    """Return the names of all files that are opened as ONNX models."""
    segments = manifest.cascade.segments if manifest.cascade is not None else ()
    return {
        *manifest.models.values(),
        *(segment.file for segment in segments),
        *(engine.onnx for engine in manifest.engines),
    }


def _check_sizes(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Compare lengths first: it costs nothing and finds the usual half-finished copy.

    It also keeps a length that the manifest only claims from being read or allocated.
    """
    for name, entry in files.items():
        _check_size(name, size_of(folder, name), entry)


def _check_size(name: str, size: int, entry: FileEntry) -> None:
    if size != entry.size:
        what = "truncated" if size < entry.size else "too long"
        raise BundleError(
            f"{name} is {what} ({size} bytes, not {entry.size}); copy the bundle again"
        )


def _check_hash(folder: Path, name: str, entry: FileEntry) -> None:
    digest, left = hashlib.sha256(), entry.size + 1  # one more: a file that grew must not pass
    try:
        with open_file(folder, name) as file:
            while left > 0:
                chunk = file.read(min(left, _CHUNK))
                if not chunk:
                    break
                digest.update(chunk)
                left -= len(chunk)
    except OSError as error:
        raise _unreadable(name, error) from error
    _check_size(name, entry.size + 1 - left, entry)
    _compare(name, digest.hexdigest(), entry)


def _read_checked(folder: Path, name: str, entry: FileEntry) -> bytes:
    if entry.size > LARGEST_MODEL:
        raise BundleError(f"{name} has {entry.size} bytes; models over 2 GB cannot be opened")
    content = _read(folder, name, entry.size + 1)
    _check_size(name, len(content), entry)
    _compare(name, hashlib.sha256(content).hexdigest(), entry)
    return content


def _read(folder: Path, name: str, most: int) -> bytes:
    try:
        with open_file(folder, name) as file:
            return file.read(most)
    except OSError as error:
        raise _unreadable(name, error) from error
    except MemoryError as error:
        raise BundleError(f"{name} does not fit into this machine's memory") from error


def _compare(name: str, sha256: str, entry: FileEntry) -> None:
    if sha256 != entry.sha256:
        raise BundleError(f"{name} was altered (its SHA-256 differs); copy the bundle again")


def _unreadable(name: str, error: OSError) -> BundleError:
    return BundleError(f"{name} cannot be read: {error.strerror}")
