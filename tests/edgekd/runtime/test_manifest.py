"""A manifest is taken as a whole or refused by the name of its first bad field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.errors import BundleError
from edgekd.runtime.bundle import read_manifest, verify
from edgekd.runtime.manifest import FIELDS, is_plain_name

HASH = "0" * 64
BAD_VALUES: list[tuple[str, Any, str]] = [
    ("format_version", 2, "has format 2, this edgekd reads format 1: update edgekd"),
    ("format_version", 0, "has format 0, this edgekd reads format 1: write the bundle again"),
    ("format_version", True, "format_version"),
    ("format_version", "1", "format_version"),
    ("name", "", "name must be a text"),
    ("name", 3, "name must be a text"),
    ("target", {"name": "cpu"}, r"target\.runtime"),
    ("files", [], "files must be a JSON object"),
    ("files", {"model.onnx": HASH}, r"files\.model\.onnx must be a JSON object"),
    ("files", {"model.onnx": {"sha256": "AB", "bytes": 1}}, "64 lower-case"),
    ("files", {"model.onnx": {"sha256": [], "bytes": 1}}, "64 lower-case"),
    ("files", {"model.onnx": {"sha256": HASH, "bytes": True}}, "whole number of bytes"),
    ("files", {"model.onnx": {"sha256": HASH, "bytes": -1}}, "whole number of bytes"),
    ("files", {"../up": {"sha256": HASH, "bytes": 1}}, "plain file name"),
    ("models", {"compressed": "secret.onnx"}, r"models\.compressed must be one of the files"),
    ("models", {"compressed": ["model.onnx"]}, r"models\.compressed"),
    ("models", {"baseline": "baseline.onnx"}, "'compressed'"),
    ("spec", {"inputs": []}, r"spec\.inputs must be a list"),
    ("spec", {"inputs": [1]}, r"spec\.inputs\[0\] must be a JSON object"),
    ("preprocessing", {"z": {}}, r"preprocessing\.z must be named like an input"),
    ("preprocessing", {"x": {"layout": "NHWC", "mean": "abc", "std": [1]}}, r"x\.mean"),
    ("preprocessing", {"x": {"layout": "NHWC", "mean": [True], "std": [1]}}, r"x\.mean"),
    ("preprocessing", {"x": {"layout": "NHWC", "mean": [1], "std": [0]}}, "std must be positive"),
    ("preprocessing", {"x": {"layout": "CHW", "mean": [1], "std": [1]}}, "layout"),
    ("classes", "cat", "classes must be"),
    ("classes", [1], "classes must be"),
    ("task", "regression", "task must be one of classification, other"),
    ("task", ["other"], "task must be"),
]


def test_types_what_reading_needs_and_keeps_the_rest(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.files["report.html"].size == len("<html></html>")
    assert manifest.models["compressed"] == "model.onnx"
    assert str(manifest.spec.inputs[0]) == "x: float32[N, 3, 2, 2]"
    assert manifest.preprocessing["x"].layout == "NHWC"
    assert manifest.classes == ("a", "b", "c", "d", "e")
    assert manifest.data["created"] == "2026-01-01T00:00:00Z"
    verify(bundle, manifest)


@pytest.mark.parametrize(("field", "value", "message"), BAD_VALUES)
def test_names_the_field_that_is_wrong(
    bundle: Path, rewrite: Any, field: str, value: Any, message: str
) -> None:
    rewrite({field: value})
    with pytest.raises(BundleError, match=message):
        read_manifest(bundle)


@pytest.mark.parametrize(
    "change",
    [{"dtype": "float31"}, {"dtype": []}, {"shape": [0]}, {"shape": "3"}, {"shape": [True]},
     {"shape": ["N"]}, {"name": None}],
)  # fmt: skip
def test_names_the_tensor_that_is_wrong(bundle: Path, rewrite: Any, change: Any) -> None:
    spec = dict(read_manifest(bundle).data["spec"])
    spec["inputs"][0].update(change)
    rewrite({"spec": spec})
    with pytest.raises(BundleError, match=rf"spec\.inputs\[0\]\.{next(iter(change))}"):
        read_manifest(bundle)


def test_refuses_two_inputs_of_one_name(bundle: Path, rewrite: Any) -> None:
    spec = dict(read_manifest(bundle).data["spec"])
    rewrite({"spec": {**spec, "inputs": spec["inputs"] * 2}})
    with pytest.raises(BundleError, match="different names"):
        read_manifest(bundle)


def test_lists_every_missing_field(bundle: Path) -> None:
    (bundle / "manifest.json").write_text('{"format_version": 1}')
    with pytest.raises(BundleError, match=f"lacks {', '.join(FIELDS)}"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[1]", b"null", b'{"format_version": NaN}', b"[" * 100_000,
     b'{"format_version": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_refuses_what_is_not_a_json_object(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError):
        read_manifest(bundle)


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"it has no manifest\.json"):
        read_manifest(tmp_path)


def test_plain_names() -> None:
    assert all(map(is_plain_name, ["model.onnx", "a-b_c.1", "_x", "report.html"]))
    bad = ["", ".", "..", ".x", "a/b", "a\\b", "/a", "C:a", "a b", "a\n", "a\0", "\u00e9", 3, None,
           "manifest.json", "Manifest.JSON"]  # fmt: skip
    assert not any(map(is_plain_name, bad))
