"""``edgekd keygen``, ``edgekd sign`` and ``edgekd verify``: prove who made a bundle."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgekd_cli.options import Json
from edgekd_cli.output import show_json, show_line

PASSPHRASE = "EDGEKD_KEY_PASSPHRASE"


def keygen(
    out: Annotated[Path, typer.Option(help="The private key; its public half is OUT.pub.")],
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help=f"Encrypt it; asks, or takes ${PASSPHRASE}.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a key for signing bundles; files that exist are never overwritten."""
    from edgekd.signing import make_key

    key_id, public = make_key(out, _passphrase(confirm=True) if passphrase else None)
    if as_json:
        show_json({"key_id": key_id, "private": str(out), "public": str(public)})
        return
    show_line(f"private key  {out}  (keep it secret; whoever has it can sign in your name)")
    show_line(f"public key   {public}  (goes to every device: load(bundle, trust=...))")
    show_line(f"key id       {key_id}")


def sign(
    bundle: Annotated[Path, typer.Argument(help="The folder that compress wrote.")],
    key: Annotated[Path, typer.Option(help="Private key; /dev/stdin reads it from a pipe.")],
    as_json: Json = False,
) -> None:
    """Check a bundle and write the signature of its manifest to manifest.sig."""
    from edgekd.signing import is_encrypted, others_may_read, sign_bundle

    needed = key.is_file() and is_encrypted(key)  # a pipe can be read only once
    key_id = sign_bundle(bundle, key, _passphrase() if needed else None)
    if others_may_read(key):
        typer.echo(f"note: other users may read {key}; chmod 600 {key}", err=True)
    if as_json:
        show_json({"bundle": str(bundle), "key_id": key_id})
        return
    show_line(f"{bundle} is signed with the key {key_id}")


def verify(
    bundle: Annotated[Path, typer.Argument(help="The folder that compress wrote.")],
    trust: Annotated[
        list[Path] | None,
        typer.Option(help="Public key that the signature must be by; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a bundle's signature, manifest and files, and say what was checked."""
    from edgekd.runtime.trust import KEYS
    from edgekd.signing import verify_bundle

    found = verify_bundle(bundle, trust or None)
    manifest = found.manifest
    if as_json:
        show_json(
            {
                "bundle": str(bundle),
                "files": sorted(manifest.files),
                "key_id": found.key_id,
                "is_trusted": found.is_trusted,
                "uncovered": found.uncovered,
            }
        )
        return
    if found.is_trusted:
        show_line(f"signature  valid, by the trusted key {found.key_id}")
    elif found.key_id is not None:
        show_line(
            f"signature  NOT CHECKED: give --trust or {KEYS}; it names the key {found.key_id}"
        )
    else:
        show_line("signature  none: nothing proves who made this bundle")
    count = len(manifest.files)
    show_line(f"manifest   {manifest.name} for {manifest.target['name']}: every field is sound")
    show_line(f"files      {count} of {count} have the length and SHA-256 of the manifest")
    for name in found.uncovered:
        show_line(f"not covered, and never read: {name!r}")


def _passphrase(*, confirm: bool = False) -> bytes:
    from edgekd.errors import TrustError

    given = os.environ.get(PASSPHRASE)
    if given is None:
        if not sys.stdin.isatty():
            raise TrustError(f"a passphrase is needed: set {PASSPHRASE}, or run it on a terminal")
        given = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    if not given:
        raise TrustError(f"the passphrase is empty: set {PASSPHRASE} to one")
    return str(given).encode("utf-8")
