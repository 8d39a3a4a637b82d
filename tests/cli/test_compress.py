"""The main job through the real command line: nothing stands in for anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from edgekd.recipe import load_recipe
from edgekd.runtime import openvino
from edgekd.settings import parse

FAST = {
    "name": "fast",
    "stages": [
        {
            "stage": "quantize",
            "calibration": {"samples": 128, "method": "minmax"},
            "distill": {"epochs": 1, "augment": "none"},
        }
    ],
}
# Calibration on blank images: every range collapses, and so must the accuracy.
BLANK_DATA = """
import numpy as np, torch
def load():
    with np.load({path!r}) as arrays:
        x_train, y_train = arrays["x_train"][:, None] / 255.0, arrays["y_train"]
        x_val, y_val = arrays["x_val"][:, None] / 255.0, arrays["y_val"]
    pairs = lambda x, y: [(torch.tensor(x, dtype=torch.float32), torch.tensor(y))]
    blank = np.zeros((8, 1, 8, 8))
    return {{"train": pairs(x_train, y_train), "validation": pairs(x_val, y_val),
            "calibration": pairs(blank, np.zeros(8, np.int64))}}
"""
WRONG_LABELS = BLANK_DATA.replace(
    '"train": pairs(x_train, y_train)', '"train": pairs(x_train, 0 * y_train)'
).replace("blank = np.zeros((8, 1, 8, 8))", "blank = x_train[:8]")

# For runs whose choice of a runtime is of no interest: it times half of the candidates.
ONE_RUNTIME = ("--runtime", "onnxruntime")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained digits network, its data and a recipe of one epoch."""
    from edgekd.demo import make_demo
    from edgekd.progress import Silent

    folder = tmp_path_factory.mktemp("digits")
    make_demo(folder, Silent())
    (folder / "fast.yaml").write_text(yaml.safe_dump(FAST))
    return folder


@pytest.fixture(scope="module")
def compress(run_cli, work: Path):
    def run(*args: str, out: str = "bundle", **env: Any) -> subprocess.CompletedProcess[str]:
        return run_cli(
            "compress",
            str(work / "model.pt"),
            *("--data", str(work / "data.npz"), "--recipe", str(work / "fast.yaml")),
            *("--out", str(work / out), "--cache", str(work / "cache")),
            *args,
            **env,
        )

    return run


@pytest.fixture(scope="module")
def compressed(compress, work: Path) -> Path:
    done = compress("--max-drop", "2", fresh=True)
    assert done.returncode == 0, done.stderr
    assert "quantize" in done.stdout and "bundle:" in done.stdout
    return work / "bundle"


def test_the_bundle_holds_a_model_close_to_the_original(compressed: Path) -> None:
    manifest = json.loads((compressed / "manifest.json").read_text())
    assert manifest["accuracy"]["original"]["value"] > 0.95
    assert manifest["accuracy"]["compressed"]["value"] > 0.93
    assert manifest["parity"]["passed"]
    kernels = manifest["kernels"]
    assert kernels["integer_layers"] == kernels["layers_total"] == 4
    assert kernels["integer_sums"] == kernels["sums_total"] == 1
    assert manifest["latency"]["models"]["quantize"]["ratio"] > 0
    counts = {name: split["count"] for name, split in manifest["data"].items()}
    assert counts["validation"] == 360
    assert counts["train"] + counts["calibration"] == 1437


def test_production_loads_it_without_torch(run_python, compressed: Path, work: Path) -> None:
    code = (
        "import sys, numpy as np, edgekd.runtime\n"
        f"model = edgekd.runtime.load({str(compressed)!r})\n"
        f"data = np.load({str(work / 'data.npz')!r})\n"
        "logits = model(model.preprocess(data['x_val']))\n"
        "print((logits.argmax(1) == data['y_val']).mean(), 'torch' in sys.modules)"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    accuracy, has_torch = done.stdout.split()
    manifest = json.loads((compressed / "manifest.json").read_text())
    (chosen,) = [row for row in manifest["candidates"]["rows"] if row["chosen"]]
    assert float(accuracy) == pytest.approx(chosen["accuracy"], abs=0.003)  # one image of 360
    assert has_torch == "False"


def test_every_runtime_is_measured_and_the_choice_recorded(compressed: Path) -> None:
    manifest = json.loads((compressed / "manifest.json").read_text())
    rows = {(row["model"], row["runtime"], row["precision"]): row for row in candidates(manifest)}
    original = rows["baseline", "onnxruntime", "f32"]
    assert (original["arithmetic"], original["drop_points"], original["ratio"]) == ("FP32", 0, None)
    int8 = rows["compressed", "onnxruntime", "f32"]
    assert int8["arithmetic"] == "INT8"
    assert int8["quality"] == manifest["accuracy"]["compressed"]
    expected = 2
    if openvino.is_installed():
        expected = 5 if openvino.has_bf16() else 4
        same = rows["baseline", "openvino", "f32"]["quality"]
        assert same["agreement"] == 1.0 and same["max_difference"] < 1e-2
        there = rows["compressed", "openvino", "f32"]
        assert there["arithmetic"] == "INT8" and there["quality"]["agreement"] > 0.95
        assert "openvino" in manifest["versions"]
    assert len(rows) == expected and manifest["candidates"]["skipped"] == []
    (chosen,) = [row for row in rows.values() if row["chosen"]]
    deployment = manifest["deployment"]
    assert all(deployment[key] == chosen[key] for key in ("model", "runtime", "precision"))
    assert deployment["worth_it"] == ("not worth it" not in deployment["verdict"])
    page = (compressed / "report.html").read_text()
    assert "What to run" in page and deployment["verdict"].split(":")[0] in page


def candidates(manifest: dict) -> list[dict]:
    return manifest["candidates"]["rows"]


@pytest.mark.slow
def test_the_runtime_can_be_fixed(compress, compressed, work: Path) -> None:
    done = compress("--runtime", "onnxruntime", out="fixed")
    assert done.returncode == 0, done.stderr
    manifest = json.loads((work / "fixed" / "manifest.json").read_text())
    assert {row["runtime"] for row in candidates(manifest)} == {"onnxruntime"}
    assert "chosen: " in done.stdout and "Quantizing was" in done.stdout


BLOCKED = "import sys; sys.modules['openvino'] = None"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], 'needs OpenVINO: pip install "edgekd[openvino]"'),
        pytest.param(
            ["--target", "jetson"],
            "nothing can be timed here for jetson-orin-nano, since models",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_asking_for_openvino_in_vain_is_refused_before_any_work(
    compress, work: Path, tmp_path: Path, args: list[str], words: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)
    done = compress("--runtime", "openvino", *args, out="never", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_eval_of_the_bundle_repeats_the_manifest(run_cli, compressed: Path, work: Path) -> None:
    done = run_cli("eval", str(compressed), "--data", str(work / "data.npz"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    manifest = json.loads((compressed / "manifest.json").read_text())
    assert found["quality"]["value"] == manifest["accuracy"]["compressed"]["value"]
    assert found["same_samples"]


@pytest.mark.slow
def test_a_dry_run_says_what_is_cached_and_is_a_recipe(compress, compressed: Path, work) -> None:
    before = (compressed / "manifest.json").read_bytes()
    done = compress("--dry-run")
    assert done.returncode == 0, done.stderr
    assert "# target cpu: x86-64 computer with ONNX Runtime\n" in done.stdout
    assert "# 1. original (cached):" in done.stdout
    assert "# 2. quantize (cached): INT8" in done.stdout
    (work / "printed.yaml").write_text(done.stdout)
    assert load_recipe(str(work / "printed.yaml")) == load_recipe(str(work / "fast.yaml"))
    assert (compressed / "manifest.json").read_bytes() == before
    other = compress("--dry-run", "--seed", "3")
    assert "cached" not in other.stdout
    assert parse(other.stdout)["seed"] == 3


def test_json_on_stdout_and_logs_on_stderr(compress, compressed: Path) -> None:
    before = json.loads((compressed / "manifest.json").read_text())
    done = compress("--json", "--max-drop", "2")
    result = json.loads(done.stdout)
    assert result["passed"] and result["failed_checks"] == []
    assert result["manifest"] == json.loads((compressed / "manifest.json").read_text())
    assert candidates(result["manifest"]) == candidates(before)  # from the cache, not timed again
    assert "quantize: already done" in done.stderr


@pytest.mark.slow
def test_layers_that_calibration_ruined_pay_for_the_budget(compress, work) -> None:
    factory = work / "blank.py"
    factory.write_text(BLANK_DATA.format(path=str(work / "data.npz")))
    recipe = {"name": "blank", "stages": [{**FAST["stages"][0], "distill": None}]}
    (work / "blank.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ("--data", f"{factory}:load", "--recipe", str(work / "blank.yaml"), *ONE_RUNTIME)
    compress(*arguments, out="blank")  # what it leaves in the cache must not be taken for the next
    done = compress(*arguments, "--max-drop", "1", "--max-nfr", "0.5", out="blank")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "layers quantized alone" in done.stdout
    assert "went back to float for the accuracy budget" in done.stdout
    manifest = json.loads((work / "blank" / "manifest.json").read_text())
    details = manifest["stages"][-1]["details"]
    assert details["budget"]["held"] and len(details["returned_layers"]) > 0
    assert manifest["accuracy"]["compressed"]["negative_flips"] <= 0.005
    (timed,) = (
        row
        for row in manifest["candidates"]["rows"]
        if (row["model"], row["runtime"]) == ("compressed", "onnxruntime")
    )
    assert timed["integer_layers"] < timed["layers"]


@pytest.mark.slow
def test_a_missed_budget_exits_1_keeps_the_bundle_and_names_the_stage(compress, work) -> None:
    """Training on labels that are all wrong ruins the weights: float layers are no help then."""
    factory = work / "wrong.py"
    factory.write_text(WRONG_LABELS.format(path=str(work / "data.npz")))
    distill = {"epochs": 1, "hard_label_weight": 1.0, "learning_rate": 0.01, "augment": "none"}
    recipe = {"name": "wrong", "stages": [{**FAST["stages"][0], "distill": distill}]}
    (work / "wrong.yaml").write_text(yaml.safe_dump(recipe))
    done = compress(
        *("--data", f"{factory}:load", "--recipe", str(work / "wrong.yaml")),
        *("--max-drop", "1", "--max-nfr", "0.5", *ONE_RUNTIME),
        out="wrong",
    )
    assert done.returncode == 1, done.stderr
    assert "failed: top1 fell by" in done.stdout and "quantize lost" in done.stdout
    assert "does not hold with all" in done.stdout
    manifest = json.loads((work / "wrong" / "manifest.json").read_text())
    assert "more than --max-drop 1" in manifest["failed_checks"][0]
    assert "more than --max-nfr 0.5" in manifest["failed_checks"][1]
    details = manifest["stages"][-1]["details"]
    assert not details["budget"]["held"] and details["returned_layers"] == []
    assert manifest["kernels"]["integer_layers"] == manifest["kernels"]["layers_total"]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_jetson_graph_is_symmetric_and_says_where_the_engine_is_built(compress, work) -> None:
    import onnx
    from onnx import numpy_helper

    done = compress("--target", "jetson", out="jetson")
    assert done.returncode == 0, done.stderr
    assert "target jetson: jetson-orin-nano, NVIDIA Jetson Orin Nano 8GB" in done.stderr
    assert "engine must be built where TensorRT is" in done.stdout
    model = onnx.load(work / "jetson" / "model.onnx")
    assert model.opset_import[0].version == 17
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    zero_points = [
        stored[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"
    ]
    assert zero_points and all(z.dtype == np.int8 and not z.any() for z in zero_points)
    manifest = json.loads((work / "jetson" / "manifest.json").read_text())
    assert manifest["latency"] is None
    assert manifest["candidates"] is None and manifest["deployment"] is None
    assert manifest["parity"]["passed"]
    assert manifest["target_rules"]["passed"] and manifest["target_rules"]["violations"] == []
    assert "zero-points" in manifest["target_rules"]["rules"]


def test_a_killed_run_continues_and_ends_in_the_same_result(compress, compressed, work) -> None:
    """Kill the process as soon as its first step is stored, then run the same command again."""
    recipe = work / "fast.yaml"
    command = [
        *(sys.executable, "-m", "edgekd_cli", "compress", str(work / "model.pt")),
        *("--data", str(work / "data.npz"), "--recipe", str(recipe)),
        *("--out", str(work / "again"), "--cache", str(work / "cache-again")),
        *ONE_RUNTIME,
    ]
    root = Path(__file__).parents[2]
    paths = os.pathsep.join(map(str, (root, root / "cli", root / "hardware")))
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 100
    while not list((work / "cache-again").glob("[0-9a-f]*/record.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (work / "again").exists()
    done = compress("--cache", str(work / "cache-again"), *ONE_RUNTIME, out="again")
    assert done.returncode == 0, done.stderr
    models = [(work / name / "model.onnx").read_bytes() for name in ("again", "bundle")]
    assert models[0] == models[1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--mean", "0.5", "--std", "0.5,0.5"], "images have 1 channels"),
        (["--target", "jetsen"], "did you mean jetson"),
        (["--recipe", "int8-distiled"], "int8-distilled"),
    ],
)
def test_wrong_input_exits_2_in_one_line(compress, work, args, words) -> None:
    done = compress(*args, out="never")
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (work / "never").exists()


def test_a_folder_that_is_no_bundle_is_never_replaced(compress, work: Path) -> None:
    (work / "mine").mkdir()
    (work / "mine" / "thesis.txt").write_text("years of work")
    done = compress(out="mine")
    assert done.returncode == 2
    assert "thesis.txt" in done.stderr
    assert (work / "mine" / "thesis.txt").read_text() == "years of work"
