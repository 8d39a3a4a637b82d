"""The manifest's engines: every damage is refused by name, and what fits a machine."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from engine_entries import ENTRY, FILES, INPUTS, MODELS, ORIN, parse
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import BundleError
from edgekd.runtime.cuda import GpuMachine
from edgekd.runtime.engine_manifest import ShapeRange, parse_engines


def test_reads_what_was_written() -> None:
    entry = parse(ENTRY)
    assert entry.shapes == {"x": ShapeRange((1, 3), (8, 3), (64, 3))}
    assert (entry.version, entry.dla_core, entry.compatible) == ("10.3.0", None, False)
    assert parse({**ENTRY, "dla_core": 1, "cuda": None}).dla_core == 1
    assert parse({k: v for k, v in ENTRY.items() if k != "dla_core"}) == entry
    assert parse_engines(None, FILES, MODELS, INPUTS) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file": "other.engine"}, r"engines\[0\].file must be one of the files"),
        ({"onnx": ["model.onnx"]}, r"engines\[0\].onnx must be one of the files"),
        ({"model": "pruned"}, "model must be one of compressed, baseline"),
        ({"binding": "os"}, "binding must be one of tensorrt, tensorrt_rtx"),
        ({"version": "10"}, "version must be a version like"),
        ({"version": "1." + "9" * 5000}, "version must be a version like"),
        ({"version": "\u0661.2"}, "version must be a version like"),
        ({"compute_capabilities": []}, "compute_capabilities must be a list"),
        ({"compute_capabilities": [8.7]}, "as texts"),
        ({"cuda": 12.6}, "cuda must be a version like 12.6, or null"),
        ({"platform": ""}, "platform must be a text"),
        ({"version_compatible": 1}, "version_compatible must be true or false"),
        ({"hardware_compatible": "all"}, "hardware_compatible must be one of none"),
        ({"dla_core": True}, "dla_core must be the number"),
        ({"shapes": {}}, "shapes must be keyed by the inputs x"),
        ({"shapes": {"x": []}}, r"engines\[0\].shapes.x must be a JSON object"),
        ({"shapes": {"x": {"min": [1], "opt": [2], "max": [3, 3]}}}, "of one rank"),
        ({"shapes": {"x": {"min": [4], "opt": [2], "max": [8]}}}, "none smaller than the one"),
        ({"shapes": {"x": {"min": [0], "opt": [2], "max": [8]}}}, "positive whole numbers"),
        ({"shapes": {"x": {"min": [1], "opt": [2], "max": [2**31]}}}, "positive whole numbers"),
    ],
)
def test_names_the_field_that_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        parse({**ENTRY, **change})
    assert "\n" not in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
PATHS = [(key,) for key in ENTRY] + [
    ("shapes", "x"),
    *(("shapes", "x", k) for k in ENTRY["shapes"]["x"]),
]


@given(path=st.sampled_from(PATHS), value=JSON, remove=st.booleans())
def test_whatever_is_there_is_read_or_refused(
    path: tuple[str, ...], value: object, remove: bool
) -> None:
    entry = copy.deepcopy(ENTRY)
    inner = entry
    for key in path[:-1]:
        inner = inner[key]
    if remove:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    try:
        found = parse(entry)
    except BundleError as error:
        assert str(error).startswith("manifest.json: engines[0]")
        assert "\n" not in str(error)
    else:
        found.misfits("tensorrt", "10.3.0", ORIN)  # what was read can be compared


@given(value=JSON)
def test_the_field_itself_may_be_anything(value: object) -> None:
    try:
        assert parse_engines(value, FILES, MODELS, INPUTS) == ()
    except BundleError as error:
        assert str(error).startswith("manifest.json: engines")


@pytest.mark.parametrize(
    ("here", "machine", "message"),
    [
        (("tensorrt", "10.3.0"), {}, None),
        (("tensorrt", "10.3.0"), {"cuda": "13.0"}, None),
        (("tensorrt", "10.3.0.1"), {}, "it was built by TensorRT 10.3.0, here is 10.3.0.1"),
        (("tensorrt", "8.6.2"), {}, "built by TensorRT 10.3.0, here is 8.6.2"),
        (("tensorrt_rtx", "1.4.0"), {}, "an engine of tensorrt, here is tensorrt_rtx 1.4.0"),
        (
            ("tensorrt", "10.3.0"),
            {"platform": "linux-x86_64"},
            "for linux-aarch64, this is linux-x",
        ),
        (
            ("tensorrt", "10.3.0"),
            {"name": "L4", "compute_capability": "8.9"},
            "for compute capability 8.7, L4 has 8.9",
        ),
        (("tensorrt", "10.3.0"), {"cuda": "11.4"}, "a driver for CUDA 12.6, .* up to 11.4"),
    ],
)
def test_both_sides_of_a_misfit_are_named(
    here: tuple[str, str], machine: dict[str, str], message: str | None
) -> None:
    found = parse(ENTRY).misfits(*here, replace(ORIN, **machine))  # type: ignore[arg-type]
    if message is None:
        assert found == []
    else:
        with pytest.raises(BundleError, match=message):
            raise BundleError(", ".join(found))
        assert len(found) == 1


def test_all_misfits_are_named_at_once() -> None:
    laptop = GpuMachine("RTX", "12.0", "11.8", "windows-amd64", 1 << 33)
    assert len(parse(ENTRY).misfits("tensorrt", "8.6.1", laptop)) == 4


@pytest.mark.parametrize(
    ("version", "runs"),
    [("10.3.0", True), ("10.16.1.11", True), ("10.0.1", False), ("11.0.0", False)],
)
def test_a_version_compatible_engine_runs_on_later_ones(version: str, runs: bool) -> None:
    entry = parse({**ENTRY, "version_compatible": True})
    assert (not entry.misfits("tensorrt", version, ORIN)) is runs
    assert entry.compatible


@pytest.mark.parametrize(("capability", "runs"), [("8.0", True), ("12.0", True), ("7.5", False)])
def test_a_hardware_compatible_engine_runs_on_ampere_and_later(capability: str, runs: bool) -> None:
    entry = parse({**ENTRY, "hardware_compatible": "ampere_plus"})
    machine = replace(ORIN, compute_capability=capability)
    assert (not entry.misfits("tensorrt", "10.3.0", machine)) is runs
