"""Timing a cascade sample by sample, here without a process and with one."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exits import expected, inputs_of, middle_thresholds, write_cascade

from edgekd.bench.cascade_worker import MODEL, run, time_samples


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timed")
    feed = inputs_of("cnn", 12)
    levels = middle_thresholds("cnn", "onnxruntime", feed)
    points = {"default": levels, "full": [None, None], "first": [-1.0, None]}
    np.savez(folder / "inputs.npz", **feed)
    return write_cascade(folder / "bundle", "cnn", "onnxruntime", points)


def job(bundle: Path, **changed: Any) -> dict[str, Any]:
    return {
        "bundle": str(bundle),
        "inputs": str(bundle.parent / "inputs.npz"),
        "points": ["full", "default", "first"],
        "threads": 1,
        "seed": 0,
        "process": 0,
        **changed,
    }


def test_every_sample_is_timed_once_on_each_and_its_exit_is_told(bundle: Path) -> None:
    answer = run(**job(bundle))
    assert set(answer["samples_ns"]) == {MODEL, "full", "default", "first"}
    for times in answer["samples_ns"].values():
        assert len(times) == 12 and min(times) > 0
    feed = inputs_of("cnn", 12)
    levels = middle_thresholds("cnn", "onnxruntime", feed)
    _, exits = expected("cnn", "onnxruntime", levels, feed)
    assert answer["exits"] == {"full": [2] * 12, "default": exits.tolist(), "first": [0] * 12}


def test_each_sample_meets_all_callers_before_the_next_and_in_random_order() -> None:
    log: list[tuple[str, int]] = []
    callers = {name: (lambda name=name, x=0: log.append((name, x))) for name in "abc"}
    rows = [{"x": i} for i in range(40)]
    found = time_samples(callers, rows, random.Random(0))
    assert {name: len(times) for name, times in found.items()} == dict.fromkeys("abc", 40)
    turns = [log[i : i + 3] for i in range(0, 120, 3)]
    assert all(len({x for _, x in turn}) == 1 for turn in turns)
    assert all({name for name, _ in turn} == set("abc") for turn in turns)
    assert len({tuple(name for name, _ in turn) for turn in turns}) == 6  # every order occurs
    places = [turn[0][1] for turn in turns]
    assert sorted(places) == list(range(40)) and places != sorted(places)


def test_in_a_process_of_its_own_it_answers_in_json(bundle: Path, run_python: Any) -> None:
    del run_python  # its paths are what a fresh process of this checkout needs
    found = subprocess.run(
        [sys.executable, "-m", "edgekd.bench.cascade_worker"],
        input=json.dumps(job(bundle, points=["default"])),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    assert set(json.loads(found.stdout)["samples_ns"]) == {MODEL, "default"}
    wrong = subprocess.run(
        [sys.executable, "-m", "edgekd.bench.cascade_worker"],
        input=json.dumps(job(bundle, points=["fast"])),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert wrong.returncode == 2 and not wrong.stdout
    assert wrong.stderr.count("\n") == 1 and "no operating point 'fast'" in wrong.stderr
