"""Keys are made once and never overwritten; what is signed is sound; what is signed is proved."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgekd.errors import BundleError, TrustError
from edgekd.export.bundle import check_destination, write_bundle
from edgekd.runtime import load
from edgekd.runtime.bundle import read_manifest
from edgekd.runtime.trust import (
    CONTEXT,
    KEYS,
    OWN_WORK,
    REQUIRE,
    Signature,
    read_trusted_manifest,
    trusted_keys,
)
from edgekd.signing import is_encrypted, make_key, others_may_read, sign_bundle, verify_bundle

TENSOR = {"name": "x", "dtype": "float32", "shape": [None, 2]}
MANIFEST: dict[str, Any] = {
    "format_version": 1,
    "name": "tiny",
    "target": {"name": "cpu", "runtime": "onnxruntime"},
    "models": {"compressed": "model.onnx"},
    "spec": {"inputs": [TENSOR], "outputs": [{**TENSOR, "name": "y"}]},
    "preprocessing": {},
    "classes": None,
    "task": "other",
}


def identity() -> bytes:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    opset = [helper.make_opsetid("", 17)]
    content: bytes = onnx.helper.make_model(
        graph, opset_imports=opset, ir_version=8
    ).SerializeToString()
    return content


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEYS, raising=False)
    monkeypatch.delenv(REQUIRE, raising=False)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def public(key: Path) -> Path:
    return key.with_name("key.pub")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    files: dict[str, bytes | Path] = {"model.onnx": identity()}
    return write_bundle(tmp_path / "tiny", files, MANIFEST, overwrite=False)


def test_keys_are_standard_files_that_openssl_reads(tmp_path: Path) -> None:
    key_id, public = make_key(tmp_path / "key")
    private = serialization.load_pem_private_key((tmp_path / "key").read_bytes(), None)
    half = serialization.load_pem_public_key(public.read_bytes())
    assert isinstance(private, Ed25519PrivateKey) and isinstance(half, Ed25519PublicKey)
    raw = half.public_bytes_raw()
    assert raw == private.public_key().public_bytes_raw()
    assert key_id == hashlib.sha256(raw).hexdigest()
    assert public == tmp_path / "key.pub"
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert not others_may_read(tmp_path / "key")
    (tmp_path / "key").chmod(0o640)
    assert others_may_read(tmp_path / "key")


@pytest.mark.parametrize("taken", ["key", "key.pub"])
def test_no_file_is_overwritten_or_left_behind(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    with pytest.raises(TrustError, match="exists, and keys are never overwritten"):
        make_key(tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == [taken]
    assert (tmp_path / taken).read_text() == "mine"
    with pytest.raises(TrustError, match="cannot be written: No such file"):
        make_key(tmp_path / "nowhere" / "key")


def test_the_signature_is_over_the_manifest_byte_by_byte(bundle: Path, key: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    key_id = sign_bundle(bundle, key)
    after = {path.name: path.read_bytes() for path in bundle.iterdir()}
    fields = json.loads(after.pop("manifest.sig"))
    assert after == before  # models and engines stay what was built
    assert fields["algorithm"] == "ed25519" and fields["key_id"] == key_id
    half = serialization.load_pem_public_key(key.with_name("key.pub").read_bytes())
    assert isinstance(half, Ed25519PublicKey)
    half.verify(base64.b64decode(fields["signature"]), CONTEXT + before["manifest.json"])


def test_signing_again_is_the_same_and_another_key_replaces_it(
    bundle: Path, key: Path, tmp_path: Path
) -> None:
    sign_bundle(bundle, key)
    first = (bundle / "manifest.sig").read_bytes()
    sign_bundle(bundle, key)  # Ed25519 is deterministic
    assert (bundle / "manifest.sig").read_bytes() == first
    make_key(tmp_path / "new")
    sign_bundle(bundle, tmp_path / "new")
    assert (bundle / "manifest.sig").read_bytes() != first
    with pytest.raises(TrustError, match="not among the trusted ones"):
        load(bundle, trust=tmp_path / "key.pub")
    load(bundle, trust=tmp_path / "new.pub").close()


def test_a_damaged_bundle_is_not_signed(bundle: Path, key: Path) -> None:
    (bundle / "model.onnx").write_bytes(identity() + b"\0")
    with pytest.raises(BundleError, match=r"model\.onnx is too long"):
        sign_bundle(bundle, key)
    (bundle / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match="tiny: "):
        sign_bundle(bundle, key)
    assert not (bundle / "manifest.sig").exists()


def test_a_rewritten_bundle_has_no_old_signature(bundle: Path, key: Path) -> None:
    sign_bundle(bundle, key)
    check_destination(bundle, overwrite=True)  # manifest.sig is no foreign file
    files: dict[str, bytes | Path] = {"model.onnx": identity()}
    write_bundle(bundle, files, {**MANIFEST, "name": "new"}, overwrite=True)
    assert not (bundle / "manifest.sig").exists()
    with pytest.raises(BundleError, match="cannot be a file of a bundle"):
        write_bundle(bundle, {**files, "manifest.sig": b""}, MANIFEST, overwrite=True)


def test_loads_what_a_trusted_key_signed(
    bundle: Path, key: Path, public: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrustError, match=r"tiny: not signed: it has no manifest\.sig"):
        load(bundle, trust=public)
    sign_bundle(bundle, key)
    make_key(tmp_path / "other")
    other = tmp_path / "other.pub"
    both = tmp_path / "both.pub"
    both.write_bytes(b"# two keys, the old one goes in May\n" + other.read_bytes())
    with both.open("ab") as file:
        file.write(public.read_bytes())
    for trust in (public, str(public), public.read_bytes(), [other, public], (public,), both):
        load(bundle, trust=trust).close()  # type: ignore[arg-type]
    with pytest.raises(TrustError, match="not among the trusted ones"):
        load(bundle, trust=other)


def test_what_is_parsed_is_what_was_checked(
    bundle: Path, key: Path, public: Path, monkeypatch: Any
) -> None:
    """The manifest is read once: a file exchanged in between is not seen."""
    sign_bundle(bundle, key)
    reads = []
    opened = os.open
    monkeypatch.setattr(
        os, "open", lambda *a, **k: reads.append(Path(a[0]).name) or opened(*a, **k)
    )
    read_trusted_manifest(bundle, public)
    assert sorted(reads) == ["manifest.json", "manifest.sig"]


def test_the_environment_names_keys_and_makes_them_compulsory(
    bundle: Path, key: Path, public: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv(REQUIRE, "0")
    load(bundle).close()
    monkeypatch.setenv(REQUIRE, "1")
    with pytest.raises(TrustError, match=f"{REQUIRE} is set, but there are no keys"):
        load(bundle)
    load(bundle, trust=OWN_WORK).close()  # compress looks at what it just wrote
    with pytest.raises(TrustError, match="not signed"):
        load(bundle, trust=public)
    monkeypatch.setenv(KEYS, str(public))
    for required in ("1", "0"):  # keys alone are enough to be asked
        monkeypatch.setenv(REQUIRE, required)
        with pytest.raises(TrustError, match="not signed"):
            load(bundle)
    sign_bundle(bundle, key)
    load(bundle).close()
    make_key(tmp_path / "other")
    load(bundle, trust=public).close()
    with pytest.raises(TrustError, match="not among"):
        load(bundle, trust=tmp_path / "other.pub")  # what the program says goes first
    monkeypatch.setenv(KEYS, str(tmp_path / "nowhere"))
    with pytest.raises(TrustError, match="nowhere: the public key cannot be read: No such file"):
        load(bundle)


def pem(key: Any) -> bytes:
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    content: bytes = key.public_key().public_bytes(serialization.Encoding.PEM, spki)
    return content


BEGIN, END = b"-----BEGIN PUBLIC KEY-----\n", b"-----END PUBLIC KEY-----\n"


@pytest.mark.parametrize(
    ("trust", "message"),
    [
        (b"", "the key given is no public key"),
        (b"ssh-ed25519 AAAA me@here", "is no public key: it has no block"),
        (BEGIN + b"AAAA\n" + END, "its public key cannot be read"),
        (BEGIN, "its public key cannot be read"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "another algorithm"),
        (pem(ed448.Ed448PrivateKey.generate()), "another algorithm"),
        (b"-----BEGIN PRIVATE KEY-----", "is a private key; give its public half"),
        ("/dev/null", "is no public key"),
        ("/", "the public key cannot be read: Is a directory"),
        ("nowhere\0", "the public key cannot be read: embedded null"),
        ([], "trust= is empty"),
        ([None], "trust= takes files of public keys"),
        (7, "trust= takes files of public keys"),
        (True, "trust= takes files of public keys"),
        (False, "trust= takes files of public keys"),
    ],
)
def test_refuses_what_is_no_key(bundle: Path, trust: Any, message: str) -> None:
    """Before the bundle is looked at, and never by trusting anything instead."""
    with pytest.raises(TrustError, match=message) as caught:
        load(bundle, trust=trust)
    assert str(caught.value).isprintable()


def test_refuses_to_sign_with_what_is_no_private_key(bundle: Path, public: Path) -> None:
    keys = {
        "public": (public.read_bytes(), "is a public key; signing takes the private one"),
        "text": (b"hello", "is no private key in a PEM file"),
        "damaged": (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "damaged"),
        "ec": (
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            "another algorithm",
        ),
    }
    for name, (content, message) in keys.items():
        path = public.with_name(name)
        path.write_bytes(content)
        with pytest.raises(TrustError, match=message):
            sign_bundle(bundle, path)
    with pytest.raises(TrustError, match="the private key cannot be read: No such file"):
        sign_bundle(bundle, public.with_name("nowhere"))
    assert not (bundle / "manifest.sig").exists()


def test_a_passphrase_encrypts_the_key(bundle: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "locked", b"open sesame")
    assert is_encrypted(tmp_path / "locked")
    with pytest.raises(TrustError, match="needs a passphrase"):
        sign_bundle(bundle, tmp_path / "locked")
    with pytest.raises(TrustError, match="its passphrase is another one"):
        sign_bundle(bundle, tmp_path / "locked", b"open barley")
    sign_bundle(bundle, tmp_path / "locked", b"open sesame")
    load(bundle, trust=tmp_path / "locked.pub").close()
    make_key(tmp_path / "plain")
    with pytest.raises(TrustError, match="is not encrypted: leave out the passphrase"):
        sign_bundle(bundle, tmp_path / "plain", b"x")


def test_verify_says_what_was_checked(bundle: Path, key: Path, public: Path) -> None:
    found = verify_bundle(bundle)
    assert (found.key_id, found.is_trusted, found.uncovered) == (None, False, ())
    key_id = sign_bundle(bundle, key)
    (bundle / "notes.txt").write_text("mine")
    found = verify_bundle(bundle)
    assert (found.key_id, found.is_trusted, found.uncovered) == (key_id, False, ("notes.txt",))
    found = verify_bundle(bundle, public)
    assert found.is_trusted and found.manifest == read_manifest(bundle)
    (bundle / "model.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="truncated"):
        verify_bundle(bundle, public)


def test_without_cryptography_it_says_what_to_install(bundle: Path, public: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from edgekd.runtime import load\n"
        "load(sys.argv[1]).close()\n"
        "try: load(sys.argv[1], trust=sys.argv[2])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(public)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert done.stdout.strip() == (
        'TrustError cryptography is not installed: pip install "edgekd[sign]"'
    )


SIGNED: dict[str, Any] = {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 7), st.booleans())
def test_no_bit_of_manifest_or_signature_can_change(
    tmp_path_factory: Any, place: int, bit: int, of_signature: bool
) -> None:
    if not SIGNED:
        folder = tmp_path_factory.mktemp("signed")
        make_key(folder / "key")
        files: dict[str, bytes | Path] = {"model.onnx": identity()}
        SIGNED["bundle"] = write_bundle(folder / "tiny", files, MANIFEST, overwrite=False)
        sign_bundle(SIGNED["bundle"], folder / "key")
        SIGNED["trust"] = (folder / "key.pub").read_bytes()
    path = SIGNED["bundle"] / ("manifest.sig" if of_signature else "manifest.json")
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[place % len(good)] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        with pytest.raises(TrustError):
            read_trusted_manifest(SIGNED["bundle"], SIGNED["trust"])
    finally:
        path.write_bytes(good)
    read_trusted_manifest(SIGNED["bundle"], SIGNED["trust"])


def test_one_signature_has_one_form() -> None:
    signature = Signature("0" * 64, b"\1" * 64)
    assert signature.to_bytes() == Signature("0" * 64, b"\1" * 64).to_bytes()
    assert len(signature.to_bytes()) < 300
    assert trusted_keys(OWN_WORK) is None and trusted_keys(None) is None
