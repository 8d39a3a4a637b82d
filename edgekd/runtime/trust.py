"""Prove who wrote a bundle before any byte of it is believed: Ed25519 (RFC 8032) over the manifest.

The manifest has the SHA-256 of every file, so its signature covers the whole bundle. Public keys
are PEM files (SubjectPublicKeyInfo); the code needs the package ``cryptography``, of any version
since 2.6.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.errors import BundleError, TrustError
from edgekd.runtime.bundle import read_manifest_bytes, read_small
from edgekd.runtime.fields import MANIFEST_NAME, SIGNATURE_NAME, shown
from edgekd.runtime.manifest import Manifest, parse_manifest
from edgekd.runtime.strict_json import parse_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

REQUIRE = "EDGEKD_REQUIRE_SIGNATURE"
KEYS = "EDGEKD_TRUST"
INSTALL = 'cryptography is not installed: pip install "edgekd[sign]"'

# What is signed starts with this, so that no signature over a manifest can be passed off as one
# over anything else that the same key signs, nor the other way round.
CONTEXT = b"edgekd bundle manifest, signature format 1\n"
ALGORITHM = "ed25519"
_FORMAT = 1
_LARGEST_SIGNATURE = 4096  # bytes; one has about 250
_LARGEST_KEYS = 1 << 20
_KEY_ID = re.compile("[0-9a-f]{64}")
_BEGIN, _END = b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----"


class OwnWork:
    """Asks for no signature: the program wrote the bundle itself, just now, in its own folder."""


OWN_WORK = OwnWork()

# Python 3.8 evaluates these, and knows neither bars nor subscripts of abstract classes.
Key = typing.Union[str, "os.PathLike[str]", bytes]
Trust = typing.Union[Key, typing.Sequence[Key], OwnWork]  # noqa: UP007
"""A PEM file, or the bytes of one, with one or more public keys; or several of these."""


@dataclass(frozen=True)
class Signature:
    """What ``manifest.sig`` says: ``key_id`` as ``key_id`` below gives it, and 64 bytes."""

    key_id: str
    signature: bytes

    def to_bytes(self) -> bytes:
        """Return the content of ``manifest.sig``, the only one that is accepted for it."""
        fields = {
            "format_version": _FORMAT,
            "algorithm": ALGORITHM,
            "key_id": self.key_id,
            "signature": base64.b64encode(self.signature).decode("ascii"),
        }
        return (json.dumps(fields, indent=2) + "\n").encode("ascii")


def read_trusted_manifest(folder: Path, trust: Trust | None = None) -> Manifest:
    """Read ``folder/manifest.json``, after its signature is seen to be by a key of ``trust``.

    It is read once: what is parsed are the bytes whose signature was checked. Without ``trust``,
    ``EDGEKD_TRUST`` names a file of keys; where neither is given, nothing is asked of the
    signature, unless ``EDGEKD_REQUIRE_SIGNATURE`` is set.

    Raises BundleError as ``read_manifest`` does, and TrustError when the signature is missing,
    wrong or by another key, when a key cannot be read, or when keys are required and not given.
    """
    keys = trusted_keys(trust)
    try:
        content = read_manifest_bytes(folder)
        if keys is not None:
            check_origin(content, read_signature(folder), keys)
        return parse_manifest(parse_json(content, MANIFEST_NAME))
    except BundleError as error:
        raise type(error)(f"{folder}: {error}") from error


def trusted_keys(trust: Trust | None) -> Mapping[str, Ed25519PublicKey] | None:
    """Return the keys by their ids, None where no signature is asked for; raises TrustError."""
    if isinstance(trust, OwnWork):
        return None
    if trust is None:
        trust = os.environ.get(KEYS) or None
    if trust is None:
        if os.environ.get(REQUIRE, "") not in ("", "0"):
            raise TrustError(
                f"{REQUIRE} is set, but there are no keys to check signatures with: give trust= "
                f"(verify: --trust), or set {KEYS} to a file of public keys"
            )
        return None
    several: list[Any] = [trust]
    if isinstance(trust, Iterable) and not isinstance(trust, (str, bytes, os.PathLike)):
        several = list(trust)
    if not several:
        raise TrustError("trust= is empty: give the file of a public key, or leave it out")
    return {key_id(key): key for source in several for key in _read_keys(source)}


def check_origin(
    content: bytes, signature: Signature, keys: Mapping[str, Ed25519PublicKey]
) -> None:
    """Raise TrustError unless one of ``keys`` signed ``content``, that of the manifest."""
    from cryptography.exceptions import InvalidSignature

    key = keys.get(signature.key_id)
    if key is None:
        known = ", ".join(f"{name[:16]}..." for name in keys)
        raise TrustError(
            f"signed with the key {signature.key_id[:16]}..., which is not among the trusted ones "
            f"({known}); trust that key too if it is yours, or get the bundle from its maker"
        )
    try:
        key.verify(signature.signature, CONTEXT + content)
    except InvalidSignature:
        raise TrustError(
            f"{MANIFEST_NAME} is not what the key {signature.key_id[:16]}... signed: it or the "
            "signature was altered; get the bundle again from its maker"
        ) from None


def read_signature(folder: Path) -> Signature:
    """Read ``folder/manifest.sig``; raises TrustError when there is none or it is damaged."""
    if not os.path.lexists(folder / SIGNATURE_NAME):
        raise TrustError(f"not signed: it has no {SIGNATURE_NAME}; sign it with edgekd sign")
    try:
        content = read_small(folder, SIGNATURE_NAME, _LARGEST_SIGNATURE)
        fields = parse_json(content, SIGNATURE_NAME)
    except BundleError as error:
        raise TrustError(str(error)) from error
    damaged = TrustError(f"{SIGNATURE_NAME} is not as edgekd sign writes it; sign the bundle again")
    if not isinstance(fields, dict):
        raise damaged
    algorithm, version = fields.get("algorithm"), fields.get("format_version")
    if version != _FORMAT or algorithm != ALGORITHM:
        said = shown(f"format {version!r:.40}, algorithm {algorithm!r:.40}")
        raise TrustError(
            f"{SIGNATURE_NAME} has {said}; this edgekd checks format {_FORMAT}, {ALGORITHM}"
        )
    try:
        signature = Signature(
            str(fields.get("key_id")), base64.b64decode(str(fields.get("signature")), validate=True)
        )
    except (binascii.Error, ValueError) as error:
        raise damaged from error
    # One signature has one form, so that nothing can be added to the file or changed in it.
    is_id = _KEY_ID.fullmatch(signature.key_id) is not None
    if not is_id or len(signature.signature) != 64 or signature.to_bytes() != content:
        raise damaged
    return signature


def key_id(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the 32 bytes of a public key, in hexadecimal digits."""
    from cryptography.hazmat.primitives import serialization

    form = serialization.PublicFormat.Raw
    return hashlib.sha256(key.public_bytes(serialization.Encoding.Raw, form)).hexdigest()


def require_cryptography() -> None:
    """Raise TrustError where the package is not installed."""
    try:
        import cryptography.hazmat.primitives.asymmetric.ed25519  # noqa: F401
    except ImportError as error:
        raise TrustError(INSTALL) from error


def _read_keys(source: Key) -> list[Ed25519PublicKey]:
    """Read all public keys of a PEM file; raises TrustError."""
    name = "the key given" if isinstance(source, bytes) else shown(str(source))
    if isinstance(source, bytes):
        content = source
    elif isinstance(source, (str, os.PathLike)):
        try:
            with open(source, "rb") as file:  # noqa: PTH123 - of any kind: secrets may be pipes
                content = file.read(_LARGEST_KEYS)
        except (OSError, ValueError) as error:
            raise TrustError(f"{name}: the public key cannot be read: {_why(error)}") from error
    else:
        raise TrustError(f"trust= takes files of public keys or their bytes, not {source!r:.80}")
    if b"PRIVATE KEY-----" in content:
        raise TrustError(f"{name} is a private key; give its public half, and keep this one secret")
    parts = content.split(_BEGIN)[1:]
    if not parts:
        raise TrustError(f"{name} is no public key: it has no block {_BEGIN.decode()}")
    return [_parse_key(_BEGIN + part.partition(_END)[0] + _END + b"\n", name) for part in parts]


def _parse_key(pem: bytes, name: str) -> Ed25519PublicKey:
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.backends import default_backend
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem, default_backend())  # before version 3.1 it must be given
    except (ValueError, UnsupportedAlgorithm) as error:
        raise TrustError(f"{name} is damaged: its public key cannot be read") from error
    if not isinstance(key, Ed25519PublicKey):
        kind = type(key).__name__.strip("_")
        raise TrustError(f"{name} is a key of another algorithm ({kind}); edgekd keygen makes one")
    return key


def _why(error: Any) -> str:
    return str(getattr(error, "strerror", None) or error)
