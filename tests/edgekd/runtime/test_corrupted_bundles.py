"""500 corrupted bundles: each is refused in one line, and does nothing else."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from corrupted import KINDS, Kind, Room, engine_entry, fingerprint, make_cases, make_room, table
from corrupted_loads import Attempt, Loads, load_all
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.bundle import write_bundle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: pipes and limits")

WEIGHT = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)


def info(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


X, Y, LINK = info("x", "N", 3, 2, 2), info("y", "N", 5), info("flat", "N", 12)
FLATTEN = helper.make_node("Flatten", ["x"], ["flat"])


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], scale: float = 1.0) -> bytes:
    weight = numpy_helper.from_array(WEIGHT * np.float32(scale), "w")
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, [weight])
    opset = [helper.make_opsetid("", 17)]
    made = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(made)
    content: bytes = made.SerializeToString()
    return content


def linear(scale: float = 1.0) -> bytes:
    return model([FLATTEN, helper.make_node("MatMul", ["flat", "w"], ["y"])], [X], [Y], scale)


def segments() -> dict[str, bytes]:
    """The same network in two parts, with an exit between them."""
    first = [
        FLATTEN,
        helper.make_node("MatMul", ["flat", "w"], ["exit_1"]),
        helper.make_node("Softmax", ["exit_1"], ["sure"], axis=1),
        helper.make_node("ReduceMax", ["sure"], ["confidence"], axes=[1], keepdims=0),
    ]
    outputs = [info("exit_1", "N", 5), info("confidence", "N"), LINK]
    last = [helper.make_node("MatMul", ["flat", "w"], ["y"])]
    return {
        "segment_0.onnx": model(first, [X], outputs),
        "segment_1.onnx": model(last, [LINK], [Y]),
    }


def tensor(name: str, *shape: int | None) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": list(shape)}


MANIFEST: dict[str, Any] = {
    "format_version": 1,
    "name": "tiny",
    "created": "2026-01-01T00:00:00Z",
    "target": {"name": "cpu", "runtime": "onnxruntime"},
    "models": {"compressed": "model.onnx", "baseline": "baseline.onnx"},
    "spec": {"inputs": [tensor("x", None, 3, 2, 2)], "outputs": [tensor("y", None, 5)]},
    "preprocessing": {"x": {"layout": "NHWC", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}},
    "classes": ["a", "b", "c", "d", "e"],
    "task": "classification",
    "deployment": {"model": "compressed", "runtime": "onnxruntime", "precision": None},
}
CASCADE = {
    "confidence": "probability",
    "exits": [{"name": "exit_1", "after": "flat", "head": "linear", "temperature": 1.0}],
    "segments": [
        {"file": "segment_0.onnx", "link": None, "latency_ms": {"p50": 0.1, "p99": 0.2}},
        {"file": "segment_1.onnx", "link": tensor("flat", None, 12), "latency_ms": None},
    ],
    "operating_points": {"full": {"thresholds": [None]}, "default": {"thresholds": [0.5]}},
    "default": "default",
}


def sound_bundles(folder: Path) -> list[Path]:
    """Write a plain bundle, one with early exits, and one with an engine."""
    files: dict[str, bytes | Path] = {"model.onnx": linear(), "baseline.onnx": linear(2)}
    page = {**files, "report.html": b"<html></html>"}
    plain = write_bundle(folder / "plain", page, MANIFEST, overwrite=False)
    exits = write_bundle(
        folder / "exits", {**files, **segments()}, {**MANIFEST, "cascade": CASCADE}, overwrite=False
    )
    entry = engine_entry(MANIFEST, "model.engine", "model.onnx")
    engine = np.random.default_rng(1).bytes(3000)
    built = write_bundle(
        folder / "engine",
        {**files, "model.engine": engine},
        {**MANIFEST, "engines": [entry]},
        overwrite=False,
    )
    return [plain, exits, built]


@dataclass(frozen=True)
class Run:
    room: Room
    cases: list[tuple[Path, Kind]]
    sound: Loads
    loads: Loads
    before: dict[str, Any]
    after: dict[str, Any]

    def attempts(self, kind: Kind, *, trusting: bool) -> list[Attempt]:
        return [
            attempt
            for attempt in self.loads.attempts
            if self.cases[attempt.number][1] is kind and attempt.trusting == trusting
        ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("corrupted")
    room = make_room(folder / "room", sound_bundles(folder / "bundles"))
    cases, public = make_cases(room), room.key.with_name("key.pub")
    sound = load_all(room.path, public, [*room.bundles])
    before = around(folder)
    loads = load_all(room.path, public, [path for path, _ in cases])
    sys.stdout.write(f"\n{table(cases, loads.attempts)}\n")
    return Run(room, cases, sound, loads, before, around(folder))


def around(folder: Path) -> dict[str, Any]:
    """Return all that is there, but for what ONNX Runtime keeps of its own in the user's cache."""
    own = "room/home/.cache/Microsoft"
    found = fingerprint(folder)
    return {name: held for name, held in found.items() if not f"{name}/".startswith(f"{own}/")}


def test_there_are_500(run: Run) -> None:
    assert len(run.cases) == 500
    assert len(run.loads.attempts) == 1000


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.damage.__name__)
def test_every_one_is_refused_where_a_key_is_trusted(run: Run, kind: Kind) -> None:
    attempts = run.attempts(kind, trusting=True)
    assert len(attempts) == kind.count
    assert [attempt for attempt in attempts if attempt.outcome != "refused"] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.damage.__name__)
def test_hashes_and_checks_refuse_what_they_can(run: Run, kind: Kind) -> None:
    """Without trust: some changes leave a sound bundle, and only a signature tells them apart."""
    allowed = {"refused", "loaded"} if kind.unsigned == "either" else {kind.unsigned}
    attempts = run.attempts(kind, trusting=False)
    assert len(attempts) == kind.count
    assert [attempt for attempt in attempts if attempt.outcome not in allowed] == []


def test_messages_are_one_line_that_a_terminal_can_show(run: Run) -> None:
    for attempt in run.loads.attempts:
        if attempt.outcome == "refused":
            assert attempt.message.isprintable(), attempt
            assert len(attempt.message) < 1200, attempt
            assert "memory" not in attempt.message, attempt  # nothing is allocated on a claim


def test_nothing_is_written_and_nothing_outside_is_read(run: Run) -> None:
    assert run.loads.writes == []
    assert run.loads.strange_reads == []
    assert run.after == run.before


def test_memory_stays_small(run: Run) -> None:
    assert run.loads.grown_mb < 300


def test_sound_copies_load(run: Run) -> None:
    """Else refusing would prove nothing."""
    manifests = [json.loads((path / "manifest.json").read_text()) for path in run.room.bundles]
    assert [bool(data.get("cascade")) for data in manifests] == [False, True, False]
    assert [bool(data.get("engines")) for data in manifests] == [False, False, True]
    assert [attempt.outcome for attempt in run.sound.attempts] == ["loaded"] * 6
