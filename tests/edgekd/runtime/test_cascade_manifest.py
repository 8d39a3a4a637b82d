"""The field ``cascade`` is taken as a whole or refused by the name of its first bad field."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import BundleError
from edgekd.runtime.cascade_manifest import parse_cascade
from edgekd.runtime.fields import MANIFEST_NAME
from edgekd.runtime.manifest import parse_manifest

FILES = ("segment_0.onnx", "segment_1.onnx", "segment_2.onnx", "model.onnx")


def good() -> dict[str, Any]:
    link = {"name": "a", "dtype": "uint8", "shape": [None, 8, 4, 4]}
    time = {"p50": 0.2, "p99": 1}
    exits = [
        {"name": f"exit_{i}", "after": f"layer{i}", "head": "conv", "temperature": 1.3}
        for i in (1, 2)
    ]
    return {
        "confidence": "margin",
        "exits": exits,
        "segments": [
            {"file": file, "link": link if i else None, "latency_ms": time}
            for i, file in enumerate(FILES[:3])
        ],
        "operating_points": {
            "full": {"thresholds": [None, None], "accuracy": 0.9},
            "default": {"thresholds": [0.9, 1]},
        },
        "default": "default",
    }


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return a good field with ``value`` at ``path``; ``...`` takes the entry out."""
    data = copy.deepcopy(good())
    *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place: Any = data
    for part in way:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


def test_types_what_the_runtime_needs() -> None:
    found = parse_cascade(good(), FILES)
    assert found.confidence == "margin" and found.default == "default"
    assert [exit.name for exit in found.exits] == ["exit_1", "exit_2"]
    assert found.exits[0].temperature == 1.3 and found.exits[0].after == "layer1"
    assert found.segments[0].link is None
    assert str(found.segments[1].link) == "a: uint8[N, 8, 4, 4]"
    latency = found.segments[2].latency
    assert latency is not None and (latency.p50, latency.p99) == (0.2, 1.0)
    assert found.operating_points == {"full": (None, None), "default": (0.9, 1.0)}
    assert parse_cascade(changed("segments.1.latency_ms", None), FILES).segments[1].latency is None


BAD: list[tuple[str, Any, str]] = [
    ("confidence", "energy", "confidence must be one of probability, margin, entropy"),
    ("confidence", ["margin"], "confidence must be one of"),
    ("confidence", ..., "confidence must be one of"),
    ("exits", [], "exits must be a list that is not empty"),
    ("exits", {}, "exits must be a list"),
    ("exits.1", 3, r"exits\[1\] must be a JSON object"),
    ("exits.0.name", "", r"exits\[0\]\.name must be a text"),
    ("exits.1.name", "exit_1", "exits must be exits of different names"),
    ("exits.0.after", None, r"exits\[0\]\.after must be a text"),
    ("exits.0.head", ..., r"exits\[0\]\.head must be a text"),
    ("exits.1.temperature", 0, r"exits\[1\]\.temperature must be a finite number above 0"),
    ("exits.1.temperature", True, r"exits\[1\]\.temperature"),
    ("exits.1.temperature", float("inf"), r"exits\[1\]\.temperature"),
    ("exits.0", ..., "segments must be 2 segments, one more than there are exits"),
    ("segments.2", ..., "segments must be 3 segments"),
    ("segments.1.file", "other.onnx", r"segments\[1\]\.file must be one of the files listed"),
    ("segments.1.file", ["model.onnx"], r"segments\[1\]\.file must be one of the files listed"),
    ("segments.1.link", None, r"segments\[1\]\.link must be a tensor"),
    ("segments.0.link", {"name": "a"}, r"segments\[0\]\.link must be null"),
    ("segments.1.link.dtype", "int7", r"segments\[1\]\.link\.dtype must be a numpy dtype"),
    ("segments.1.link.name", 3, r"segments\[1\]\.link\.name must be a text"),
    ("segments.1.link.shape", [8], r"segments\[1\]\.link\.shape must be null, for the batch"),
    ("segments.1.link.shape", [None, None], r"segments\[1\]\.link\.shape must be null"),
    ("segments.1.link.shape", [2, 8], r"segments\[1\]\.link\.shape must be null"),
    ("segments.1.link.shape", [None, 0], r"segments\[1\]\.link\.shape must be a list of positive"),
    ("segments.1.latency_ms", 3, r"segments\[1\]\.latency_ms must be a JSON object"),
    ("segments.1.latency_ms.p99", ..., r"latency_ms\.p99 must be a finite number above 0"),
    ("segments.1.latency_ms.p50", -1, r"latency_ms\.p50 must be a finite number above 0"),
    ("operating_points", [], "operating_points must be a JSON object"),
    ("operating_points.full", [], r"operating_points\.full must be a JSON object"),
    ("operating_points.full.thresholds", [0.9], r"full\.thresholds must be 2 finite numbers"),
    ("operating_points.full.thresholds", [0.9, "a"], r"full\.thresholds must be 2 finite"),
    ("operating_points.full.thresholds", [0.9, False], r"full\.thresholds must be 2 finite"),
    ("operating_points.full.thresholds", [0.9, float("nan")], r"full\.thresholds must be 2"),
    ("operating_points.full.thresholds", None, r"full\.thresholds must be a list"),
    ("default", "fast", "default must be one of full, default"),
    ("default", ["full"], "default must be one of full, default"),
    ("default", ..., "default must be one of full, default"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD)
def test_names_the_field_that_is_wrong(path: str, value: Any, message: str) -> None:
    with pytest.raises(BundleError, match=rf"^{MANIFEST_NAME}: cascade\..*{message}"):
        parse_cascade(changed(path, value), FILES)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted({path for path, _, _ in BAD})), JSON)
def test_any_json_data_is_read_or_refused_in_one_line(path: str, value: Any) -> None:
    try:
        parse_cascade(changed(path, value), FILES)
    except BundleError as error:
        assert "\n" not in str(error) and "cascade" in str(error)


def manifest(**fields: Any) -> dict[str, Any]:
    x = {"name": "x", "dtype": "float32", "shape": [None, 3]}
    entry = {"sha256": "0" * 64, "bytes": 1}
    return {
        "format_version": 1,
        "name": "tiny",
        "target": {"name": "cpu", "runtime": "onnxruntime"},
        "files": dict.fromkeys(FILES, entry),
        "models": {"compressed": "model.onnx"},
        "spec": {"inputs": [x], "outputs": [{**x, "name": "y"}]},
        "preprocessing": {},
        "classes": None,
        "task": "classification",
        "cascade": good(),
        **fields,
    }


def test_a_manifest_has_it_or_not() -> None:
    assert parse_manifest(manifest()).cascade == parse_cascade(good(), FILES)
    assert parse_manifest(manifest(cascade=None)).cascade is None


def test_a_cascade_has_one_output_and_a_batch() -> None:
    x = {"name": "x", "dtype": "float32", "shape": [None, 3]}
    two = {"inputs": [x], "outputs": [{**x, "name": "y"}, {**x, "name": "z"}]}
    with pytest.raises(BundleError, match=r"spec\.outputs must be one tensor"):
        parse_manifest(manifest(spec=two))
    fixed = {"inputs": [{**x, "shape": [1, 3]}], "outputs": [{**x, "name": "y"}]}
    with pytest.raises(BundleError, match=r"spec\.inputs\[0\]\.shape must be null first"):
        parse_manifest(manifest(spec=fixed))
