"""What compress and demo ask of the pipeline, and what they make of its answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from edgekd_cli.app import app
from typer.testing import CliRunner

from edgekd import demo, pipeline
from edgekd.device import load_profile
from edgekd.job import CompressRequest
from edgekd.pipeline import CompressResult, Plan, PlanStep
from edgekd.recipe import load_recipe, recipe_to_yaml
from edgekd.settings import parse

STAGE = {"name": "quantize", "metric": "top1", "accuracy": 0.9, "drop_points": 1.5, "latency": None}
MANIFEST = {"stages": [{**STAGE, "model_bytes": 1000, "seconds": 2.0}]}


class Pipeline:
    """Stands for the pipeline: remembers the request and gives a result without any work."""

    def __init__(self) -> None:
        self.messages: tuple[str, ...] = ()
        self.request: CompressRequest | None = None

    def compress(self, request: CompressRequest, _progress: object) -> CompressResult:
        self.request = request
        return CompressResult(request.out, MANIFEST, self.messages)

    def plan(self, request: CompressRequest) -> Plan:
        self.request = request
        steps = (
            PlanStep("original", True, "as it is"),
            PlanStep("quantize", False, "two\nlines: x"),
        )
        return Plan(load_recipe("int8-distilled"), load_profile("cpu"), steps)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    fake = Pipeline()
    monkeypatch.setattr(pipeline, "compress", fake.compress)
    monkeypatch.setattr(pipeline, "plan", fake.plan)
    return fake


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


def test_defaults(fake: Pipeline) -> None:
    done = invoke("compress", "some/net.th", "--data", "d.npz")
    assert done.exit_code == 0, done.output
    expected = CompressRequest(Path("some/net.th"), "d.npz", target="cpu", out=Path("out/net"))
    assert fake.request == expected
    assert "90.00 %" in done.stdout
    assert "1.50 points" in done.stdout
    assert "bundle: out/net" in done.stdout


def test_every_option_reaches_the_pipeline(fake: Pipeline) -> None:
    options = (
        "--arch n.py:f --data d.npz --mean 0.1,0.2 --std 1,2 --input-shape 3,8,8 --target pi5 "
        "--recipe r.yaml --out o --max-drop 0.5 --seed 7 --cache c --trust-pickle"
    )
    assert invoke("compress", "m.pt", *options.split()).exit_code == 0
    assert fake.request == CompressRequest(
        model=Path("m.pt"),
        data="d.npz",
        arch="n.py:f",
        mean=(0.1, 0.2),
        std=(1.0, 2.0),
        input_shape=(3, 8, 8),
        target="pi5",
        recipe="r.yaml",
        out=Path("o"),
        max_drop=0.5,
        seed=7,
        cache=Path("c"),
        trust_pickle=True,
    )


def test_a_failed_check_exits_1_and_is_named(fake: Pipeline) -> None:
    fake.messages = ("top1 fell by 1.50 points",)
    done = invoke("compress", "m.pt", "--data", "d.npz")
    assert done.exit_code == 1
    assert "failed: top1 fell by 1.50 points" in done.stdout
    done = invoke("compress", "m.pt", "--data", "d.npz", "--json")
    assert done.exit_code == 1
    result = json.loads(done.stdout)
    assert (result["passed"], result["failed_checks"]) == (False, list(fake.messages))
    assert result["manifest"] == MANIFEST


def test_a_dry_run_prints_a_valid_recipe(fake: Pipeline) -> None:
    text = invoke("compress", "m.pt", "--dry-run").stdout
    assert "# 1. original (cached): as it is" in text
    assert "# 2. quantize: two lines: x" in text
    assert parse(text) == parse(recipe_to_yaml(load_recipe("int8-distilled")))


def test_a_dry_run_in_json(fake: Pipeline) -> None:
    data = json.loads(invoke("compress", "m.pt", "--dry-run", "--json").stdout)
    assert [step["cached"] for step in data["steps"]] == [True, False]
    assert data["recipe"]["name"] == "int8-distilled"


def test_demo(fake: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EPOCHS", 0)
    done = invoke("demo", str(tmp_path), "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["out"] == str(tmp_path / "bundle")
    assert fake.request is not None
    assert fake.request.model.is_file()
    model, data = tmp_path / "model.pt", tmp_path / "data.npz"
    assert f"edgekd compress {model} --data {data} --target cpu" in done.stderr
