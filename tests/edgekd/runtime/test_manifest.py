"""A manifest is taken as a whole or refused by the name of its first bad field."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.errors import BundleError
from edgekd.runtime.bundle import read_manifest, verify
from edgekd.runtime.cuda import GpuMachine
from edgekd.runtime.manifest import FIELDS, is_plain_name, parse_manifest

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


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 10**4000])
    | st.floats()
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
GOOD: dict[str, Any] = {
    "format_version": 1,
    "name": "tiny",
    "target": {"name": "cpu", "runtime": "onnxruntime"},
    "files": {"model.onnx": {"sha256": HASH, "bytes": 1}},
    "models": {"compressed": "model.onnx"},
    "spec": {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 3, 2, 2]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [None, 5]}],
    },
    "preprocessing": {"x": {"layout": "NHWC", "mean": [0.5], "std": [0.2]}},
    "classes": None,
    "task": "other",
    "deployment": {"model": "compressed", "runtime": "onnxruntime", "precision": None},
    "cascade": {
        "confidence": "margin",
        "exits": [{"name": "e", "after": "a", "head": "conv", "temperature": 1.0}],
        "segments": [
            {"file": "model.onnx", "link": None, "latency_ms": {"p50": 1, "p99": 2}},
            {"file": "model.onnx", "link": {"name": "l", "dtype": "int8", "shape": [None, 3]}},
        ],
        "operating_points": {"full": {"thresholds": [None]}},
        "default": "full",
    },
    "engines": [
        {
            "file": "model.onnx",
            "model": "compressed",
            "onnx": "model.onnx",
            "binding": "tensorrt",
            "version": "10.3.0",
            "compute_capabilities": ["8.7"],
            "cuda": "12.6",
            "platform": "linux-aarch64",
            "version_compatible": True,
            "hardware_compatible": "none",
            "shapes": {"x": {key: [1, 3, 2, 2] for key in ("min", "opt", "max")}},
        }
    ],
}


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value inside."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    found = [(*way, key) for key, _ in entries]
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        found += places(inner, (*way, key)) if isinstance(inner, (dict, list)) else []
    return found


@given(VALUES)
def test_any_json_is_a_manifest_or_a_bundle_error(value: Any) -> None:
    with pytest.raises(BundleError) as caught:
        parse_manifest(value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


@settings(max_examples=400)
@given(st.sampled_from(places(GOOD)), VALUES, st.none() | st.text(max_size=5))
def test_any_value_in_any_place(way: tuple[Any, ...], value: Any, key: str | None) -> None:
    """Also under another key. What is taken has the fields' types, and can be asked."""
    data = copy.deepcopy(GOOD)
    place: Any = data
    for part in way[:-1]:
        place = place[part]
    place[way[-1]] = value
    if key is not None and isinstance(place, dict):
        place[key] = place.pop(way[-1])
    try:
        manifest = parse_manifest(data)
    except BundleError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
        return
    assert manifest.name.isprintable() and all(map(is_plain_name, manifest.files))
    machine = GpuMachine("a GPU", "8.7", "12.6", 8 << 30, "linux-aarch64")
    for engine in manifest.engines:
        engine.misfits("tensorrt", "10.3.0", machine)


def test_the_good_one_is_good() -> None:
    assert parse_manifest(copy.deepcopy(GOOD)).engines[0].version == "10.3.0"


def test_plain_names() -> None:
    assert all(map(is_plain_name, ["model.onnx", "a-b_c.1", "_x", "report.html"]))
    bad = ["", ".", "..", ".x", "a/b", "a\\b", "/a", "C:a", "a b", "a\n", "a\0", "\u00e9", 3, None,
           "manifest.json", "Manifest.JSON", "manifest.sig", "model.", "x" * 129, "CON", "nul.onnx",
           "com1.tar.gz", "mod\u0435l.onnx"]  # fmt: skip
    assert all(map(is_plain_name, ["x" * 128, "console.onnx", "nul_.onnx", "com.onnx"]))
    assert not any(map(is_plain_name, bad))
