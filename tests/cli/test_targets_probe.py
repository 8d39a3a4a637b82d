"""`edgekd targets probe` as users run it."""

from __future__ import annotations

import json
from datetime import date

import pytest

from edgekd.device import load_profile


@pytest.mark.slow
def test_a_light_install_measures_a_profile_that_is_a_target(
    run_cli, tmp_path, without_torch
) -> None:
    path = tmp_path / "board.yaml"

    options = ("--out", str(path), "--name", "this-one", "--json")
    done = run_cli("targets", "probe", *options, PYTHONPATH=without_torch)

    assert done.returncode == 0, done.stderr
    profile = load_profile(str(path))
    assert profile.model_dump(mode="json") == json.loads(done.stdout)
    assert (profile.name, profile.updated) == ("this-one", date.today())
    assert profile.peak_gmacs
    assert {"float32", "int8"} <= set(profile.peak_gmacs)
    assert all(rate > 0 for rate in profile.peak_gmacs.values())
    assert profile.memory_gb_per_s
    assert profile.layer_overhead_us
    assert [file.name for file in tmp_path.glob("*board*")] == ["board.yaml"]
    shown = run_cli("targets", "show", str(path)).stdout
    assert "edgekd targets probe" in shown


def test_a_file_that_is_there_stays(run_cli, tmp_path) -> None:
    path = tmp_path / "board.yaml"
    path.write_text("mine")

    done = run_cli("targets", "probe", "--out", str(path))

    assert done.returncode == 2
    assert done.stderr == f"error: {path} is there already; --force replaces it\n"
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--out", "board.json"], "*.yaml"),
        (["--name", "My Board"], "cannot name a profile"),
        (["--threads", "100000"], "use --threads"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_mistakes_end_at_once(run_cli, options, words) -> None:
    done = run_cli("targets", "probe", *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""
