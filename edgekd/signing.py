"""Make keys, and sign bundles with them: Ed25519 over the manifest; ``runtime/trust.py`` checks it.

A private key is a PEM file (PKCS 8), readable by its owner only, encrypted where a passphrase is
given. ``manifest.sig`` lies beside the manifest; no other file of the bundle changes, so models and
engines stay as they were built and load elsewhere too.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekd.cache import replace_file
from edgekd.errors import BundleError, TrustError
from edgekd.runtime.bundle import read_manifest_bytes, verify_models
from edgekd.runtime.fields import MANIFEST_NAME, SIGNATURE_NAME
from edgekd.runtime.manifest import Manifest, parse_manifest
from edgekd.runtime.strict_json import parse_json
from edgekd.runtime.trust import (
    CONTEXT,
    Signature,
    Trust,
    check_origin,
    key_id,
    read_signature,
    read_trusted_manifest,
    require_cryptography,
    trusted_keys,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_LARGEST_KEY = 1 << 16  # bytes


def make_key(out: Path, passphrase: bytes | None = None) -> tuple[str, Path]:
    """Write a new private key to ``out`` and its public half to ``out.pub``.

    Returns the key's id and the path of the public half. Raises TrustError when either file
    exists or cannot be written; nothing is left behind then.
    """
    require_cryptography()
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key, pem = Ed25519PrivateKey.generate(), serialization.Encoding.PEM
    encryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption)
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    public_out = out.with_name(f"{out.name}.pub")
    written: list[Path] = []
    try:
        for path, content, mode in ((out, private, 0o600), (public_out, public, 0o644)):
            _write_new(path, content, mode)
            written.append(path)
    except OSError as error:
        for path in written:
            path.unlink()
        if isinstance(error, FileExistsError):
            raise TrustError(f"{path} exists, and keys are never overwritten") from error
        raise TrustError(f"{path} cannot be written: {error.strerror}") from error
    return key_id(key.public_key()), public_out


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Write a file that must not exist; its mode is right from its first moment on."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(handle)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def is_encrypted(key: Path) -> bool:
    """Tell whether reading this private key takes a passphrase; raises TrustError."""
    return b"BEGIN ENCRYPTED PRIVATE KEY" in _content(key)


def others_may_read(key: Path) -> bool:
    """Tell whether users other than its owner may read the file of a private key."""
    with contextlib.suppress(OSError):
        mode = key.stat().st_mode
        return os.name == "posix" and stat.S_ISREG(mode) and bool(mode & 0o077)
    return False


def sign_bundle(folder: Path, key: Path, passphrase: bytes | None = None) -> str:
    """Verify the bundle, sign its manifest, write ``manifest.sig``, and return the key's id.

    A signature that is there is replaced, in one step. Raises BundleError when the bundle is not
    sound, TrustError when the key is of no use or the signature cannot be written.
    """
    private = _private_key(key, passphrase)
    try:
        content = read_manifest_bytes(folder)
        manifest = parse_manifest(parse_json(content, MANIFEST_NAME))
    except BundleError as error:
        raise type(error)(f"{folder}: {error}") from error
    verify_models(folder, manifest)
    public = private.public_key()
    signature = Signature(key_id(public), private.sign(CONTEXT + content))
    try:
        replace_file(folder / SIGNATURE_NAME, signature.to_bytes())
    except OSError as error:
        raise TrustError(f"{folder}: cannot write {SIGNATURE_NAME}: {error.strerror}") from error
    check_origin(read_manifest_bytes(folder), read_signature(folder), {key_id(public): public})
    return signature.key_id


@dataclass(frozen=True)
class Verified:
    """What was found about a bundle whose checks all passed.

    ``key_id`` is that of ``manifest.sig``, None where there is none; ``is_trusted`` says that this
    signature was checked with a key that is trusted. ``uncovered`` are files in the folder that the
    manifest does not list: nothing is known of them, and nothing of edgekd reads them.
    """

    manifest: Manifest
    key_id: str | None
    is_trusted: bool
    uncovered: tuple[str, ...]


def verify_bundle(folder: Path, trust: Trust | None = None) -> Verified:
    """Check signature, manifest and all files of a bundle; no model is opened.

    ``trust`` is that of ``edgekd.runtime.load``, and so is what the environment asks for. Raises
    BundleError, or TrustError, for what does not hold.
    """
    manifest = read_trusted_manifest(folder, trust)
    verify_models(folder, manifest)
    is_signed = os.path.lexists(folder / SIGNATURE_NAME)
    known = {MANIFEST_NAME, SIGNATURE_NAME, *manifest.files}
    return Verified(
        manifest,
        read_signature(folder).key_id if is_signed else None,
        trusted_keys(trust) is not None,
        tuple(sorted(path.name for path in folder.iterdir() if path.name not in known)),
    )


def _private_key(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    content = _content(path)
    if b"BEGIN PUBLIC KEY" in content:
        raise TrustError(f"{path} is a public key; signing takes the private one")
    if b"PRIVATE KEY-----" not in content:
        raise TrustError(f"{path} is no private key in a PEM file; edgekd keygen makes one")
    try:
        key = load_pem_private_key(content, passphrase)
    except TypeError as error:  # a passphrase where none is needed, or none where one is
        needs = "needs a passphrase" if passphrase is None else "is not encrypted: leave out"
        what = "" if passphrase is None else " the passphrase"
        raise TrustError(f"{path} {needs}{what}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        wrong = "its passphrase is another one, or it is damaged" if passphrase else "it is damaged"
        raise TrustError(f"{path} cannot be read: {wrong}") from error
    if not isinstance(key, Ed25519PrivateKey):
        kind = type(key).__name__.strip("_")
        raise TrustError(f"{path} is a key of another algorithm ({kind}); edgekd keygen makes one")
    return key


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_KEY)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise TrustError(f"{path}: the private key cannot be read: {why}") from error
