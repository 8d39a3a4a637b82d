"""The section about early exits, of a real run and of records of other kinds."""

from __future__ import annotations

import copy
import re
from html import unescape
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from edgekd.report.exits import (
    EXIT_COLUMNS,
    exit_rows,
    loaded_line,
    not_promised,
    point_columns,
    point_rows,
    shown_point,
)
from edgekd.report.page import render_report
from edgekd.report.plots import exit_plot
from edgekd.runtime.bundle import read_manifest

Manifest = dict[str, Any]


@pytest.fixture
def manifest(exit_bundle: Path) -> Manifest:
    """The manifest of a run with ``early_exit``, where nothing is timed, to be changed freely."""
    return copy.deepcopy(dict(read_manifest(exit_bundle).data))


@pytest.fixture
def timed(manifest: Manifest) -> Manifest:
    """The same as if it had been timed here; exit 1 alone is kept."""
    cascade, facts = manifest["cascade"], manifest["early_exits"]
    cascade["exits"], facts["kept"] = cascade["exits"][:1], ["exit_1"]
    facts |= {"unit": "ms", "expected_full": 0.35, "without_exits": 0.33}
    ends = [{"p50_ms": 0.2, "p99_ms": 0.3}, {"p50_ms": 0.36, "p99_ms": None}]
    latency = {"mean_ms": 0.24, "model_mean_ms": 0.34, "model_p99_ms": 0.41, "by_exit": ends}
    latency |= {"ratio": 0.706, "ratio_low": 0.69, "ratio_high": 0.73, "processes": 5}
    latency |= {"protocol": "single calls"}
    for name, point in cascade["operating_points"].items():
        point["thresholds"] = point["thresholds"][:1]
        point["measured"] |= {"shares": [0.746, 0.254], "latency": dict(latency)}
        if name != "full":
            point["expected_cost"] = 0.231
    return manifest


def section(manifest: Manifest) -> str:
    """Return the text of the section about early exits, without tags."""
    page = render_report(manifest)
    start = page.index("<h2>Early exits</h2>")
    text = re.sub(r"<svg.*?</svg>|<[^>]+>", " ", page[start : page.index("<h2>Proof")], flags=re.S)
    return re.sub(r"\s+", " ", unescape(text))


def test_it_tells_what_is_promised_from_what_is_not(manifest: Manifest) -> None:
    points = manifest["cascade"]["operating_points"]
    held, guess = points["default"], points["strict-uncertified"]

    text = section(manifest)

    assert (
        f"Promised. default: at most 40 points below the model without exits, with 95 % certainty, "
        f"tested on {held['tested_on']} samples, on which it lost {held['loss_points']:.2f}."
    ) in text
    assert (
        "Not promised. strict-uncertified: a loss of at most 0.1 points cannot be promised with "
        f"95 % certainty from {guess['samples']} samples"
    ) in text
    assert f"it loses {guess['estimate']['loss_points']:.2f} points" in text
    assert "Latency was not measured" in text and " ms" not in text


def test_costs_are_shares_where_the_target_is_not_here(manifest: Manifest) -> None:
    cascade, facts = manifest["cascade"], manifest["early_exits"]

    rows = {row[0]: row for row in exit_rows(cascade, facts)}

    for name, cost in zip(facts["kept"], facts["costs"], strict=True):
        (entry,) = [entry for entry in facts["candidates"] if entry["name"] == name]
        assert rows[name][3:6:2] == (f"{100 * entry['accuracy']:.2f} %", f"{100 * cost:.1f} %")
    assert rows["end"][-3:] == ("100.0 %", "-", "-")
    assert shown_point(cascade) is None
    for entry in facts["candidates"]:
        kept = "yes" if entry["name"] in facts["kept"] else "no"
        alone = f"{100 * entry['accuracy']:.2f} % {100 * entry['cost']:.1f} % {kept}"
        assert f"{entry['name']} {entry['after']} {entry['head']} {alone}" in section(manifest)


def test_times_stand_beside_those_of_the_model_without_exits(timed: Manifest) -> None:
    cascade, facts = timed["cascade"], timed["early_exits"]
    measured = cascade["operating_points"]["default"]["measured"]

    rows = {row[0]: row for row in point_rows(cascade, facts)}

    accuracy = f"{100 * measured['accuracy']:.2f} %"
    drop = f"{measured['drop_points'] + 0.0:.2f}"
    times = ("0.240 ms", "0.71x (0.69-0.73)", "0.231 ms", "75 / 25 %")
    assert rows["default"] == ("default", "40 (95 %)", accuracy, drop, *times)
    assert rows["full"][1] == "0 (exact)" and rows["full"][6] == "0.350 ms"
    assert len(point_columns(cascade)) == len(rows["full"])
    exits = {row[0]: row for row in exit_rows(cascade, facts)}
    assert exits["exit_1"][-2:] == ("0.200 ms", "0.300 ms")
    assert exits["end"][-3:] == ("0.350 ms", "0.360 ms", "-")
    assert exits["model without exits"][-3:] == ("0.330 ms", "0.340 ms", "0.410 ms")
    assert all(len(row) == len(EXIT_COLUMNS) for row in exits.values())
    assert "at the operating point default" in section(timed)


def test_where_no_sample_goes_to_the_end_its_row_has_no_times(timed: Manifest) -> None:
    latency = timed["cascade"]["operating_points"]["default"]["measured"]["latency"]
    latency["by_exit"] = latency["by_exit"][:1]

    rows = {row[0]: row for row in exit_rows(timed["cascade"], timed["early_exits"])}

    assert rows["exit_1"][-2:] == ("0.200 ms", "0.300 ms")
    assert rows["end"][-2:] == ("-", "-")


def test_nothing_promised_first_means_that_load_takes_the_model(timed: Manifest) -> None:
    cascade = timed["cascade"]
    points = cascade["operating_points"]
    cascade["operating_points"] = {
        "full": points["full"],
        "strict-uncertified": points["strict-uncertified"],
    }
    cascade["default"] = "full"

    assert loaded_line(cascade) == (
        "load() takes the model without exits, since no first point is promised, exits with "
        'load(bundle, operating_point="strict-uncertified")'
    )
    assert shown_point(cascade) == "strict-uncertified"


@pytest.mark.parametrize(
    ("needed", "words"),
    [(7704, "about 7,704 samples like these would do"), (None, "no number of samples like these")],
)
def test_how_many_samples_would_do(manifest: Manifest, needed: int | None, words: str) -> None:
    manifest["cascade"]["operating_points"]["strict-uncertified"]["samples_needed"] = needed

    (line,) = not_promised(manifest["cascade"])

    assert words in line


def test_a_run_that_kept_no_exit_says_so(manifest: Manifest) -> None:
    manifest["cascade"] = None
    facts = manifest["early_exits"]
    for key in ("kept", "costs", "expected_full", "without_exits", "curve", "single_file_point"):
        del facts[key]

    text = section(manifest)

    assert "No exit was kept" in text and "Promised" not in text
    assert all(f"{entry['name']} {entry['after']}" in text for entry in facts["candidates"])


def test_a_page_of_another_recipe_has_no_such_section(manifest: Manifest) -> None:
    del manifest["cascade"], manifest["early_exits"]

    assert "Early exits" not in render_report(manifest)


def test_names_from_the_model_are_escaped(manifest: Manifest) -> None:
    manifest["cascade"]["exits"][0]["after"] = "<script>alert(1)</script>"
    manifest["early_exits"]["candidates"][0]["after"] = "<b>&"

    page = render_report(manifest)

    assert "<script>" not in page and "<b>" not in page


def test_the_plot_ends_at_twice_the_largest_budget(timed: Manifest) -> None:
    points, facts = timed["cascade"]["operating_points"], timed["early_exits"]
    losses = [0.0, 0.004, 0.01, 0.3, 0.6]
    facts["wanted"] = [{"name": "default", "max_drop": 0.5}]
    facts["curve"] = [{"mean_loss": loss, "cost": 0.3 - loss / 10} for loss in losses]
    with matplotlib.rc_context({"svg.hashsalt": "fixed"}):  # else names inside are random
        whole = exit_plot(points, facts)
        del facts["curve"][3:]
        cut = exit_plot(points, facts)
        del facts["curve"][2:]
        shorter = exit_plot(points, facts)

    assert whole.startswith("<svg")
    assert whole == cut != shorter
