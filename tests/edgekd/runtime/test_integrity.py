"""Damage of every kind is refused with BundleError; nothing else ever escapes."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from edgekd.errors import BundleError
from edgekd.runtime import load
from edgekd.runtime.bundle import read_manifest, read_model, verify
from edgekd.runtime.manifest import FIELDS

FILES = ("model.onnx", "baseline.onnx", "report.html")


def test_says_missing_truncated_too_long_or_altered(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    path = bundle / "baseline.onnx"
    content = path.read_bytes()
    damage = {
        "is truncated": content[:-1],
        "is too long": content + b"x",
        "was altered": content[:-1] + bytes([content[-1] ^ 1]),
    }
    for message, damaged in damage.items():
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=rf"baseline\.onnx {message}"):
            verify(bundle, manifest)
    path.unlink()
    with pytest.raises(BundleError, match=r"baseline\.onnx is missing"):
        verify(bundle, manifest)
    path.mkdir()
    with pytest.raises(BundleError, match=r"baseline\.onnx is missing"):
        load(bundle)


def test_returns_the_bytes_that_were_hashed(bundle: Path) -> None:
    content = read_model(bundle, read_manifest(bundle), "compressed")
    assert content == (bundle / "model.onnx").read_bytes()


@pytest.mark.parametrize("seed", range(60))
def test_refuses_damaged_files(bundle: Path, seed: int) -> None:
    rng = random.Random(seed)
    path = bundle / rng.choice(FILES)
    content = bytearray(path.read_bytes())
    if seed % 3 == 0:
        del content[rng.randrange(len(content)) :]
    elif seed % 3 == 1:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        content = bytearray(
            (bundle / rng.choice([f for f in FILES if f != path.name])).read_bytes()
        )
    path.write_bytes(content)
    with pytest.raises(BundleError, match=path.name):
        load(bundle)


@pytest.mark.parametrize("wrong", [None, True, -1, 1.5, "?", [], {}, [[]], {"?": None}], ids=repr)
def test_refuses_fields_that_are_missing_or_of_a_wrong_type(bundle: Path, wrong: object) -> None:
    path = bundle / "manifest.json"
    good = json.loads(path.read_text())
    fine = {("classes", "None"), ("classes", "[]"), ("preprocessing", "{}"), ("name", "'?'")}
    for field in ("format_version", *FIELDS):
        path.write_text(json.dumps({k: v for k, v in good.items() if k != field}))
        with pytest.raises(BundleError, match=field):
            load(bundle)
        if (field, repr(wrong)) in fine:
            continue
        path.write_text(json.dumps({**good, field: wrong}))
        with pytest.raises(BundleError, match=field.split("_")[0]):
            load(bundle)


def test_a_damaged_manifest_never_crashes(bundle: Path) -> None:
    """A flipped bit may spell another valid manifest (a name, a mean), so some do load."""
    path = bundle / "manifest.json"
    good = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(good)
        damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            load(bundle).close()
        except BundleError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html></html>", "is no ONNX model"),
        (b"\x08\x08\x3a\x00", "ONNX Runtime cannot open it"),  # an empty graph
    ],
)
def test_refuses_what_is_no_model(bundle: Path, content: bytes, message: str) -> None:
    """The hash is right, the content is not."""
    (bundle / "report.html").write_bytes(content)
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    data["models"]["compressed"] = "report.html"
    sha256 = hashlib.sha256(content).hexdigest()
    data["files"]["report.html"] = {"sha256": sha256, "bytes": len(content)}
    path.write_text(json.dumps(data))
    with pytest.raises(BundleError, match=rf"report\.html.* {message}") as caught:
        load(bundle)
    assert "\n" not in str(caught.value)


def test_follows_links_inside_the_folder_only(bundle: Path, tmp_path: Path) -> None:
    """Kubernetes mounts volumes as links to a folder inside; a link to elsewhere is refused."""
    (bundle / "..data").mkdir()
    for name in ("model.onnx", "manifest.json"):
        (bundle / name).rename(bundle / "..data" / name)
        (bundle / name).symlink_to(Path("..data") / name)
    load(bundle).close()
    (tmp_path / "linked").symlink_to(bundle)
    load(tmp_path / "linked").close()
    (bundle / "..data" / "model.onnx").rename(tmp_path / "model.onnx")
    (bundle / "..data" / "model.onnx").symlink_to(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx is a link out of the bundle's folder"):
        load(bundle)
