"""Early exits through the real command line: compress, inspect, eval, bench."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exit_job import samples, write_job

from edgekd.runtime import load

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exits")
    write_job(folder)
    return folder


@pytest.fixture(scope="module")
def done(run_cli: Any, work: Path) -> Done:
    """A run for TensorRT, where nothing is timed; its thresholds come from more samples."""
    done = run_cli(
        *("compress", str(work / "model.pt2"), "--data", str(work / "data.npz")),
        *("--recipe", str(work / "recipe.yaml"), "--target", "jetson", "--single-file"),
        *("--exit-data", str(work / "more.npz")),
        *("--out", str(work / "bundle"), "--cache", str(work / "cache")),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def bundle(done: Done, work: Path) -> Path:
    return work / "bundle"


def manifest_of(bundle: Path) -> Any:
    return json.loads((bundle / "manifest.json").read_text())


def test_compress_says_what_each_operating_point_came_to(done: Done, bundle: Path) -> None:
    cascade = manifest_of(bundle)["cascade"]
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.split()}

    assert set(cascade["operating_points"]) == {"full", "default", "strict-uncertified"}
    for name, point in cascade["operating_points"].items():
        measured, row = point["measured"], " ".join(rows[name])
        assert f"{100 * measured['accuracy']:.2f} % {measured['drop_points'] + 0.0:.2f}" in row
        assert " / ".join(f"{100 * share:.0f}" for share in measured["shares"]) + " %" in row
    assert "0.1 (no)" in " ".join(rows["strict-uncertified"])
    assert "40 (95 %)" in " ".join(rows["default"])
    for entry in cascade["exits"]:
        assert rows[entry["name"]][1:3] == [entry["after"], entry["head"]]
    line = "load() takes the operating point default: at most 40 points lost with 95 % certainty"
    assert line in done.stdout


def test_thresholds_come_from_the_exit_data_and_go_into_one_file_too(
    done: Done, bundle: Path
) -> None:
    manifest = manifest_of(bundle)

    assert manifest["early_exits"]["chosen_on"] == "exit data"
    assert manifest["data"]["exits"]["count"] == manifest["early_exits"]["samples"] == 200
    assert manifest["early_exits"]["single_file_point"] == "default"
    assert "cascade.onnx" in manifest["files"]
    assert "give --exit-data" not in done.stdout


def test_inspect_lists_segments_and_what_they_receive(run_cli: Any, bundle: Path) -> None:
    text = run_cli("inspect", str(bundle)).stdout
    segments = manifest_of(bundle)["cascade"]["segments"]

    assert "segment_0.onnx   the model's inputs" in text
    for segment in segments[1:]:
        link = segment["link"]
        assert f"{link['name']}: {link['dtype']}[N, 8, 8, 8]" in text
    for segment in segments:
        kernels = segment["kernels"]
        assert kernels["integer_layers"] == kernels["layers_total"] > 0
        assert f"{kernels['integer_layers']} of {kernels['layers_total']}" in text
    assert "strict-uncertified" in text and "load() takes" in text


def test_inspect_takes_a_cascade_that_says_no_more_than_running_needs(
    run_cli: Any, bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest = manifest_of(bundle)
    del manifest["early_exits"]
    points = manifest["cascade"]["operating_points"]
    for name, point in points.items():
        points[name] = {"thresholds": point["thresholds"]}
    for segment in manifest["cascade"]["segments"]:
        del segment["kernels"]
    (copy / "manifest.json").write_text(json.dumps(manifest))

    done = run_cli("inspect", str(copy))

    assert done.returncode == 0, done.stderr
    assert "strict-uncertified" in done.stdout


def test_eval_at_an_operating_point_is_what_the_runtime_answers(
    run_cli: Any, bundle: Path, work: Path
) -> None:
    images, labels = samples(160, 1)
    with load(bundle, operating_point="default") as cascade:
        answer = cascade.run(images)
    accuracy = float((answer.outputs.argmax(1) == labels).mean())

    base = ("eval", str(bundle), "--data", str(work / "data.npz"), "--operating-point", "default")
    found = json.loads(run_cli(*base, "--json").stdout)
    text = run_cli(*base).stdout

    assert found["quality"]["value"] == pytest.approx(accuracy)
    assert found["exits"][-1] == "end"
    counts = np.bincount(answer.exits, minlength=len(found["exits"]))
    assert found["shares"] == pytest.approx((counts / 160).tolist())
    stored = manifest_of(bundle)["cascade"]["operating_points"]["default"]["measured"]
    assert found["drop_points"] == pytest.approx(stored["drop_points"])
    assert f"top1 at operating point default: {100 * accuracy:.2f} %" in text
    assert f"leave at {found['exits'][0]}: {100 * found['shares'][0]:.2f} %" in text
    assert "on 160 validation samples, the ones that compress used" in text


def test_eval_without_the_option_names_the_points(run_cli: Any, bundle: Path, work: Path) -> None:
    done = run_cli("eval", str(bundle), "--data", str(work / "data.npz"))

    assert done.returncode == 0, done.stderr
    assert "top1 of compressed" in done.stdout
    assert "--operating-point NAME evaluates them: full, default, strict-uncertified" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--operating-point", "quick"], "no operating point 'quick', only full, default, strict"),
        (["--operating-point", "default", "--model", "baseline"], "only the compressed model has"),
    ],
)
def test_eval_of_exits_that_are_not_there(
    run_cli: Any, bundle: Path, work: Path, options: list[str], words: str
) -> None:
    done = run_cli("eval", str(bundle), "--data", str(work / "data.npz"), *options)

    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())


def test_bench_adds_the_stored_times_of_the_exits(
    run_cli: Any, bundle: Path, tmp_path: Path
) -> None:
    timed = tmp_path / "timed"
    timed.mkdir()
    for file in bundle.iterdir():
        (timed / file.name).write_bytes(file.read_bytes())
    manifest = manifest_of(bundle)
    times = {"mean_ms": 0.25, "ratio": 0.71, "ratio_low": 0.7, "ratio_high": 0.72}
    manifest["cascade"]["operating_points"]["default"]["measured"]["latency"] = times
    (timed / "manifest.json").write_text(json.dumps(manifest))

    done = run_cli("bench", str(timed), "--processes", "1", "--rounds", "5")

    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if line.startswith("early exits")]
    assert shown == [
        "early exits at default, measured by compress: mean 0.250 ms, 0.71x of the model without "
        "exits (0.70 to 0.72)"
    ]


def test_options_for_exits_need_a_stage_that_makes_them(
    run_cli: Any, work: Path, tmp_path: Path
) -> None:
    for option in (["--single-file"], ["--exit-data", str(work / "more.npz")]):
        done = run_cli(
            *("compress", str(work / "model.pt2"), "--data", str(work / "data.npz")),
            *(*option, "--out", str(tmp_path / "out")),
        )
        assert done.returncode == 2
        assert f"{option[0]} is for early exits" in done.stderr
        assert not (tmp_path / "out").exists()
