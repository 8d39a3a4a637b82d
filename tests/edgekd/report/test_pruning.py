"""The section about pruning, of a real run and of records of other kinds."""

from __future__ import annotations

import copy
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from edgekd.report.page import render_report
from edgekd.report.plots import width_plot
from edgekd.report.pruning import pruning_of
from edgekd.runtime.bundle import read_manifest


@pytest.fixture
def manifest(pruned_bundle: Path) -> dict[str, Any]:
    """The manifest of a run with ``prune``, to be changed freely."""
    return copy.deepcopy(dict(read_manifest(pruned_bundle).data))


def section(manifest: dict[str, Any]) -> str:
    """Return the text of the section about pruning, without tags."""
    page = render_report(manifest)
    start = page.index("<h2>What was taken out</h2>")
    text = re.sub(r"<svg.*?</svg>|<[^>]+>", " ", page[start : page.index("<h2>Proof")], flags=re.S)
    return re.sub(r"\s+", " ", unescape(text))


def test_a_counted_budget_is_told_from_the_run(manifest: dict[str, Any]) -> None:
    facts = manifest["stages"][1]["details"]["prune"]
    before, after = facts["macs"]

    text = section(manifest)

    gain = f"{before / after:.2f}x less"
    assert f"multiplications {before:,} {after:,} {gain} at most 50 % of them counted" in text
    assert after <= 0.5 * before
    assert "says nothing about latency" in text and "predicted" not in text
    assert "latency after the stage not measured not measured" in text
    assert render_report(manifest).count("<svg") == 2


def test_every_group_is_there_with_its_units_behind_each_step(manifest: dict[str, Any]) -> None:
    facts = manifest["stages"][1]["details"]["prune"]
    shown = pruning_of(manifest["stages"][1], manifest["stages"][0])
    first, last = facts["steps"]

    assert [group["name"] for group in shown["groups"]] == [g["name"] for g in facts["groups"]]
    for group in shown["groups"]:
        assert group["left"][0] == group["before"] and group["left"][-1] == group["after"]
        if group["name"] in last["kept"]:
            assert group["left"][1] == first["kept"][group["name"]]
    assert any(0 < g["after"] < g["before"] for g in facts["groups"])


def test_what_could_not_be_followed_is_named_with_its_line(manifest: dict[str, Any]) -> None:
    shown = pruning_of(manifest["stages"][1], manifest["stages"][0])

    lost, *others = shown["locked"]

    assert not lost["followed"] and "turned" in lost["layers"]
    assert "aten.flip.default cannot be followed" in lost["reason"]
    assert "conftest.py" in lost["line"] and "torch.flip" in lost["line"]
    assert all(entry["followed"] and not entry["line"] for entry in others)
    assert unescape(lost["line"]) in section(manifest)


def test_predicted_latency_is_marked_wherever_it_stands(manifest: dict[str, Any]) -> None:
    facts = manifest["stages"][1]["details"]["prune"]
    facts |= {"source": "predicted", "budget": {"speedup": 1.9}, "original_ms": 4.0}
    facts["steps"][-1] |= {"attempts": [{"predicted": 2.0}], "chosen": 0}

    text = section(manifest)

    assert "latency in float, predicted 4.000 ms, predicted 2.000 ms, predicted 2.00x" in text
    assert "nothing was measured on the device" in text
    shown = re.findall(r"\d ms(?!, predicted)|\dx (?!predicted|less)", text)
    # What was asked for, in all and in each step, is no prediction.
    wanted = [f"{step['wanted_gain']:.2f}x" for step in facts["steps"]]
    assert len(shown) == 1 + len(wanted)


def test_of_measured_candidates_the_chosen_one_counts(manifest: dict[str, Any]) -> None:
    facts = manifest["stages"][1]["details"]["prune"]
    facts |= {"source": "measured", "budget": {"latency_ms": 2.0}, "original_ms": 4.0}
    tried = [{"predicted": 2.1, "measured": 1.9}, {"predicted": 2.2, "measured": 2.5}]
    facts["steps"][-1] |= {"attempts": tried, "chosen": 1}

    text = section(manifest)

    assert "latency in float 4.000 ms 1.600 ms 2.50x at most 2 ms measured whole" in text
    assert "1.818 ms, predicted 2.20x, predicted" in text
    assert "2.10x predicted, 1.90x measured 2.20x predicted, 2.50x measured (taken)" in text


def test_names_from_the_model_are_escaped(manifest: dict[str, Any]) -> None:
    facts = manifest["stages"][1]["details"]["prune"]
    facts["blocks_removed"] = ["<script>alert(1)</script>"]
    facts["groups"][0]["name"] = facts["locked"][0]["layer"] = "<b>&"

    assert "<script>" not in render_report(manifest) and "<b>" not in render_report(manifest)


def test_the_plot_has_room_for_many_groups_with_long_names() -> None:
    group = {"kind": "heads", "rows": 64, "before": 12}
    name = "backbone.encoder.stages.{}." + "a_very_long_name." * 20

    few, many = (
        width_plot([{**group, "name": name.format(i), "after": i % 13} for i in range(count)])
        for count in (3, 60)
    )

    assert size_of(few)[0] == size_of(many)[0]
    assert size_of(many)[1] - size_of(few)[1] == pytest.approx(57 * 0.19 * 72, rel=0.01)


def size_of(svg: str) -> tuple[float, float]:
    """Return width and height of a drawing in points."""
    found = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg)
    assert found
    return float(found[1]), float(found[2])
