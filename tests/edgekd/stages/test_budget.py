"""Layers go back to float until the budget holds: the search, and whole runs without a training.

The runs are for TensorRT, whose latency is not measured here; one is for ONNX Runtime.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import IMAGE, spoiled_chain

from edgekd.export.kernels import read_kernels
from edgekd.export.onnx import export_onnx
from edgekd.export.parity import predict_all, torch_predictor
from edgekd.graph.program import to_module
from edgekd.job import CompressRequest, prepare
from edgekd.model.save import save_model
from edgekd.pipeline import CompressResult, compress, plan
from edgekd.progress import Advance, Silent
from edgekd.quantize.sensitivity import LayerDamage
from edgekd.stages import quantize
from edgekd.stages.budget import REASON, cheapest_first, fewest
from edgekd.state import CompressionState

RECIPE = """
name: calibrate-only
stages:
  - stage: quantize
    calibration: {method: minmax}
    distill: null
"""


@given(count=st.integers(1, 300), share=st.floats(0, 1))
def test_the_search_finds_the_least_number_with_few_evaluations(count: int, share: float) -> None:
    least, asked = 1 + round(share * (count - 1)), []

    def holds(k: int) -> bool:
        asked.append(k)
        return k >= least

    assert fewest(count, holds) == least
    assert len(asked) == len(set(asked)) <= math.ceil(math.log2(count)) + 1
    assert set(asked) <= set(range(1, count + 1))


@given(answers=st.lists(st.booleans(), min_size=1, max_size=100))
def test_what_the_search_finds_holds_even_where_more_layers_do_not(answers: list[bool]) -> None:
    asked = []

    def holds(k: int) -> bool:
        asked.append(k)
        return answers[k - 1]

    found = fewest(len(answers), holds)
    if found is None:
        assert asked[-1] == len(answers) and not any(answers[k - 1] for k in asked)
    else:
        # The last success is the result: the search keeps that model only.
        assert found == [k for k in asked if answers[k - 1]][-1]


def test_layers_that_spare_most_damage_for_their_multiplications_go_first() -> None:
    rows = [
        LayerDamage("large", 0.5, 1.0, 0.9, 1000),
        LayerDamage("small", 0.1, 0.5, 0.9, 10),
        LayerDamage("none", 0.0, 0.0, 1.0, 0),
    ]
    assert [row.layer for row in cheapest_first(rows)] == ["small", "large", "none"]


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.tasks: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def task(self, description: str, total: int) -> AbstractContextManager[Advance]:
        self.tasks.append(description)
        return super().task(description, total)


@pytest.fixture(scope="module")
def request_for(tmp_path_factory: pytest.TempPathFactory) -> CompressRequest:
    """A network with one layer that cannot be int8, and labels that it all gets right."""
    folder = tmp_path_factory.mktemp("spoiled")
    images = np.random.default_rng(0).normal(size=(400, *IMAGE)).astype(np.float32)
    net = spoiled_chain(torch.from_numpy(images))
    with torch.no_grad():
        labels = net(torch.from_numpy(images)).argmax(1).numpy()
    save_model(net, torch.from_numpy(images[:2]), folder / "model.pt2")
    np.savez(folder / "data.npz", x=images, y=labels)
    (folder / "recipe.yaml").write_text(RECIPE)
    return CompressRequest(
        folder / "model.pt2",
        str(folder / "data.npz"),
        target="jetson",
        recipe=str(folder / "recipe.yaml"),
        out=folder / "out",
        cache=folder / "cache",
    )


def run(request: CompressRequest, name: str, **changes: float) -> tuple[CompressResult, Notes]:
    notes = Notes()
    return compress(replace(request, out=request.out / name, **changes), notes), notes  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def free(request_for: CompressRequest) -> CompressResult:
    return run(request_for, "free")[0]


@pytest.fixture(scope="module")
def tight(request_for: CompressRequest, free: CompressResult) -> CompressResult:
    assert free.manifest["stages"][-1]["drop_points"] > 30
    return run(request_for, "tight", max_drop=12.0)[0]


def test_without_a_budget_nothing_is_measured(free: CompressResult) -> None:
    details = free.manifest["stages"][-1]["details"]
    assert not {"sensitivity", "budget", "returned_layers"} & details.keys()


def test_a_tight_budget_returns_the_sensitive_layer_and_no_other(tight: CompressResult) -> None:
    assert tight.passed
    stage = tight.manifest["stages"][-1]
    details = stage["details"]
    assert stage["drop_points"] <= 12
    assert details["returned_layers"] == ["b.0"]
    assert details["sensitivity"]["rows"][0]["layer"] == "b.0"
    assert details["sensitivity"]["measure"] == "KL divergence"
    assert details["budget"]["held"] and details["budget"]["evaluations"] <= 1 + 3
    assert "1 of 4 layers went back to float" in details["budget"]["summary"]
    layers = {layer["name"]: layer for layer in tight.manifest["kernels"]["layers"]}
    assert layers["b.0"]["precision"] == "float32" and layers["b.0"]["reason"] == REASON
    assert {layers[name]["precision"] for name in ("a.0", "hidden", "head")} == {"int8"}
    assert tight.manifest["parity"]["passed"] and tight.manifest["target_rules"]["passed"]


def test_the_report_names_the_layers_that_paid(tight: CompressResult) -> None:
    page = (tight.out / "report.html").read_text("utf-8")
    assert tight.manifest["stages"][-1]["details"]["budget"]["summary"] in page
    assert page.count("<svg") == 2
    assert "What each layer costs" in page


def test_the_same_command_takes_the_searched_model_from_the_cache(
    request_for: CompressRequest, tight: CompressResult
) -> None:
    again, notes = run(request_for, "again", max_drop=12.0)
    assert any("taken from the cache" in note for note in notes.notes)
    assert not any("sensitivity" in task for task in notes.tasks)
    assert again.manifest["stages"] == tight.manifest["stages"]
    models = [(result.out / "model.onnx").read_bytes() for result in (again, tight)]
    assert models[0] == models[1]


def test_a_budget_that_holds_anyway_uses_what_a_run_without_one_has_finished(
    request_for: CompressRequest, free: CompressResult
) -> None:
    loose, notes = run(request_for, "loose", max_drop=99.0)
    assert any("taken from the cache" in note for note in notes.notes)
    assert loose.passed and loose.manifest["stages"] == free.manifest["stages"]


@pytest.mark.usefixtures("tight")
def test_a_plan_knows_which_budgets_are_done(request_for: CompressRequest) -> None:
    def cached(**budget: float) -> bool:
        return plan(replace(request_for, **budget)).steps[-1].cached  # type: ignore[arg-type]

    assert cached() and cached(max_drop=99.0) and cached(max_drop=12.0)
    assert not cached(max_drop=11.0) and not cached(max_drop=12.0, max_nfr=1.0)


def test_flips_alone_are_a_budget_too_in_onnx_runtime(request_for: CompressRequest) -> None:
    job = prepare(replace(request_for, target="cpu", max_nfr=12.0))
    original, spec, data = to_module(job.loaded.program), job.loaded.spec, job.data
    outputs, _ = predict_all(torch_predictor(original), data, data.validation, spec, Silent())
    state = CompressionState(
        *(original, original, spec, job.loaded.example, data, job.profile, 0, True),
        budget=job.budget,
        original_outputs=outputs,
    )
    (stage,) = job.recipe.stages
    found = quantize.run(state, stage, Silent())
    assert found.details["returned_layers"] == ["b.0"]
    assert found.details["float_reasons"] == {"b.0": REASON}
    model = export_onnx(found.model, state.example, spec, opset=job.profile.opset)
    layers = {layer.name: layer.precision for layer in read_kernels(model).layers}
    # Left to itself, ONNX Runtime would quantize the weights of b.0 again, with one step.
    assert layers == {"a.0": "int8", "b.0": "float32", "hidden": "int8", "head": "int8"}
