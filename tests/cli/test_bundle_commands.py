"""inspect, eval and bench on a real bundle, through the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.runtime import openvino

needs_openvino = pytest.mark.skipif(
    not openvino.is_installed(), reason='needs OpenVINO: pip install "edgekd[openvino]"'
)


def test_inspect(run_cli, bundle: Path) -> None:
    text = run_cli("inspect", str(bundle)).stdout
    for words in (
        "tiny for cpu (onnxruntime), classification",
        "images: float32[N, 3, 2, 2]",
        "from uint8 NHWC, mean (0.5, 0.5, 0.5)",
        "logits: float32[N, 3]",
        "classes 3: red, green, blue",
        "91.64 %",
        "2.00x",
        "2.000 ms",
        "export against torch: passed, agreement 99.70 %",
        "float: pool[0] (ReduceMean): no integer kernel",
        "QLinearMatMul",
        "w4a8",
        "0.0123..0.456",
        "0.0312",
        "source: file tiny.pt",
    ):
        assert words in text, words


def test_inspect_gives_no_reasons_for_float_where_nothing_was_quantized(
    run_cli: Any, bundle: Path
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["stages"][1]["name"] = "prune"
    (bundle / "manifest.json").write_text(json.dumps(manifest))

    text = run_cli("inspect", str(bundle)).stdout

    assert "INT8 in onnxruntime 1.31: 1 of 1" in text
    assert "float: pool[0]" not in text


def test_inspect_counts_zeros(run_cli, bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    first, last = manifest["stages"]
    zeros = {"zeros": 1500, "weights": 3000, "pattern": "2:4", "layers": [{}], "dense": {"a": "b"}}
    first |= {"name": "sparsify", "compressed_bytes": 1200, "details": {"sparsity": zeros}}
    last["details"] = {"held_zeros": {"planned": 1500, "found": 1507}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))

    text = " ".join(run_cli("inspect", str(bundle)).stdout.split())

    assert "zeros after sparsify: 1,500 of 3,000 weights in 1 layers (50.00 %, 2:4)" in text
    assert "1 layers stay dense; compressed file 1.2 kB" in text
    assert "zeros after quantize: all 1,500 of the plan, and 7 more" in text


@pytest.mark.parametrize(
    ("source", "budget", "attempts", "words"),
    [
        (
            "measured",
            {"speedup": 2.0},
            [{"predicted": 2.1, "measured": 1.9}, {"predicted": 2.2, "measured": 2.04}],
            "asked for 2.00x in float, measured 2.04x (predicted 2.20x)",
        ),
        (
            "predicted",
            {"latency_ms": 1.5},
            [{"predicted": 9.0}, {"predicted": 1.8}],
            "asked for at most 1.5 ms in float, predicted 1.80x by the device's latency model, "
            "not measured",
        ),
        (
            "counted",
            {"macs": 0.5},
            [{"predicted": 9.0}, {"predicted": 2.5}],
            "asked for at most 50.00 % of the multiplications, counted 40.00 %",
        ),
    ],
)
def test_inspect_says_what_was_pruned_and_how_that_is_known(
    run_cli: Any,
    bundle: Path,
    source: str,
    budget: dict[str, float],
    attempts: list[dict[str, float]],
    words: str,
) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    widths = [(8, 8), (8, 4), (8, 0)]
    pruned = {
        "source": source,
        "budget": budget,
        "steps": [{"attempts": attempts, "chosen": 1}],
        "groups": [{"before": before, "after": after} for before, after in widths],
        "blocks_removed": ["layer3"],
        "locked": [{"layer": "odd", "followed": False}, {"layer": "fc", "followed": True}],
        "macs": [41000, 16400],
        "parameters": [3000, 1500],
    }
    manifest["stages"][0] |= {"name": "prune", "details": {"prune": pruned}}
    (bundle / "manifest.json").write_text(json.dumps(manifest))

    text = " ".join(run_cli("inspect", str(bundle)).stdout.split())

    assert f"prune: {words}; multiplications 41,000 to 16,400, parameters 3,000 to 1,500" in text
    assert "prune: 1 of 3 groups are narrower, blocks taken out: layer3" in text
    assert "nothing could follow them: odd export against torch" in text


def test_inspect_json_is_the_manifest(run_cli, bundle: Path) -> None:
    data = json.loads(run_cli("inspect", str(bundle), "--json").stdout)
    assert data == json.loads((bundle / "manifest.json").read_text())


def test_inspect_checks_the_files(run_cli, bundle: Path) -> None:
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[-1] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    done = run_cli("inspect", str(bundle))
    assert done.returncode == 2
    assert "model.onnx was altered" in done.stderr


def test_inspect_of_a_bundle_with_the_needed_fields_only(run_cli, bundle: Path) -> None:
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    for field in ("stages", "parity", "kernels", "source"):
        del data[field]
    path.write_text(json.dumps(data))
    done = run_cli("inspect", str(bundle))
    assert done.returncode == 0, done.stderr


def test_eval(run_cli, bundle: Path, data: Path) -> None:
    done = run_cli("eval", str(bundle), "--data", str(data), "--json")
    assert done.returncode == 0, done.stderr
    quality = json.loads(done.stdout)["quality"]
    assert (quality["metric"], quality["samples"]) == ("top1", 40)
    assert (quality["value"], quality["negative_flips"]) == (0.75, 0.25)
    text = run_cli("eval", str(bundle), "--data", str(data), "--model", "baseline").stdout
    assert "top1 of baseline: 100.00 %" in text


def test_eval_without_labels(run_cli, bundle: Path, data: Path) -> None:
    with np.load(data) as arrays:
        np.savez(data, x_train=arrays["x_train"], x_val=arrays["x_val"])
    done = run_cli("eval", str(bundle), "--data", str(data), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["quality"]["metric"] == "cosine"
    done = run_cli("eval", str(bundle), "--data", str(data), "--model", "baseline")
    assert done.returncode == 2
    assert "has no labels" in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"y_val": np.full(40, 7)}, "labels run from 7 to 7"),
        ({"x_val": np.zeros((40, 2, 2), np.uint8)}, "error: "),
        ({"x_val": np.zeros((40, 3, 3, 3), np.uint8)}, "error: "),
    ],
)
def test_eval_of_data_that_does_not_fit(run_cli, bundle: Path, data: Path, change, words) -> None:
    with np.load(data) as arrays:
        np.savez(data, **{**arrays, **change})
    done = run_cli("eval", str(bundle), "--data", str(data))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_eval_works_without_torch(run_cli, without_torch: str, bundle: Path, data: Path) -> None:
    done = run_cli("eval", str(bundle), "--data", str(data), PYTHONPATH=without_torch)
    assert done.returncode == 0, done.stderr


@needs_openvino
def test_eval_on_openvino(run_cli, bundle: Path, data: Path) -> None:
    options = ("eval", str(bundle), "--data", str(data), "--runtime", "openvino")
    done = run_cli(*options, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["runtime"], found["quality"]["value"]) == ("openvino", 0.75)
    text = run_cli(*options, "--model", "baseline").stdout
    assert "top1 of baseline on OpenVINO (f32): 100.00 %" in text
    assert "same class as the baseline: 100.00 %" in text


def test_eval_in_bf16_on_onnxruntime_is_refused(run_cli, bundle: Path, data: Path) -> None:
    done = run_cli("eval", str(bundle), "--data", str(data), "--precision", "bf16")
    assert done.returncode == 2
    assert 'for bf16 choose runtime="openvino"' in done.stderr


FEW = ("--processes", "1", "--rounds", "5")


@needs_openvino
def test_bench_on_two_runtimes(run_cli, bundle: Path) -> None:
    both = ("--runtime", "onnxruntime", "--runtime", "openvino")
    done = run_cli("bench", str(bundle), *both, *FEW, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["baseline"] == "baseline on onnxruntime"
    assert set(report["models"]) == {
        f"{model} on {runtime}"
        for model in ("compressed", "baseline")
        for runtime in ("onnxruntime", "openvino")
    }
    assert report["runtime"].count("CPU") == 2
    assert report["protocol"]["primers"] == 1


def test_bench_refuses_openvino_for_tensorrt(run_cli, bundle: Path) -> None:
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "target": {"name": "orin", "runtime": "tensorrt"}}))
    done = run_cli("bench", str(bundle), "--runtime", "openvino")
    assert done.returncode == 2
    assert "its graph is for tensorrt; leave --runtime out" in done.stderr


def test_bench_of_an_unknown_runtime(run_cli, bundle: Path) -> None:
    done = run_cli("bench", str(bundle), "--runtime", "openvino:int4")
    assert done.returncode == 2
    assert "onnxruntime, openvino, openvino:bf16" in " ".join(done.stderr.split())


def test_bench_of_a_bundle(run_cli, bundle: Path) -> None:
    done = run_cli("bench", str(bundle), *FEW, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["baseline"] == "baseline"
    assert set(report["models"]) == {"compressed", "baseline"}
    assert report["models"]["compressed"]["ratio"] > 0


def test_bench_of_files_and_its_table(run_cli, bundle: Path) -> None:
    files = [str(bundle / "model.onnx"), str(bundle / "baseline.onnx")]
    done = run_cli("bench", *files, "--baseline", files[1], *FEW)
    assert done.returncode == 0, done.stderr
    assert f"speed against {files[1]}" in done.stdout.replace("\n", "")
    assert "1 processes x 5 alternating calls" in done.stdout


def test_bench_stores_every_sample(run_cli, bundle: Path, tmp_path: Path) -> None:
    report = tmp_path / "reports" / "bench.json"
    done = run_cli("bench", str(bundle), *FEW, "--out", str(report))
    assert done.returncode == 0, done.stderr
    data = json.loads(report.read_text())
    assert len(data["models"]["compressed"]["samples_ms"][0]) == 5
    assert "conditions" not in data and list(report.parent.iterdir()) == [report]
    nowhere = report / "bench.json"  # below a file
    done = run_cli("bench", str(bundle), *FEW, "--out", str(nowhere))
    assert done.returncode == 2
    assert f"{nowhere} cannot be written" in done.stderr


def test_bench_of_an_unknown_baseline(run_cli, bundle: Path) -> None:
    done = run_cli("bench", str(bundle), "--baseline", "nope")
    assert done.returncode == 2
    assert "nope" in done.stderr
