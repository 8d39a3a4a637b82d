"""The quantize stage with each option of post-training quantization, as far as integer kernels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from marks import with_slow
from networks import IMAGE, DenseOutput, build, cosine, run_onnx
from networks import Mobile as MobileNetwork
from networks import ResNet as ResNetwork

from edgekd.export.kernels import read_kernels
from edgekd.export.onnx import export_onnx
from edgekd.graph.program import output_tensors, to_module
from edgekd.job import CompressRequest, prepare
from edgekd.model.save import save_model
from edgekd.progress import Silent
from edgekd.recipe import Calibration, QuantizeStage
from edgekd.stages import quantize
from edgekd.state import CompressionState
from edgekd.training_settings import Distill

OPTIONS: dict[str, dict[str, Any]] = {
    "entropy": {"calibration": Calibration(method="entropy")},
    "equalize": {"equalize": True},
    "bias_correction": {"bias_correction": True},
    "adaround": {"rounding": "adaround", "rounding_steps": 10},
    "all": {
        "calibration": Calibration(method="entropy"),
        "equalize": True,
        "bias_correction": True,
        "rounding": "adaround",
        "rounding_steps": 10,
    },
}
NETWORKS = {"resnet": ResNetwork, "mobile": MobileNetwork, "dense": DenseOutput}


@pytest.fixture(scope="module", params=with_slow(("resnet", "mobile"), ["mobile"]))
def state(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_state(request.param, tmp_path_factory.mktemp("state"))


def make_state(name: str, folder: Path, target: str = "cpu") -> CompressionState:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(200, *IMAGE)).astype(np.float32)
    save_model(build(NETWORKS[name]), torch.from_numpy(images[:2]), folder / "model.pt2")
    np.savez(folder / "data.npz", x=images, y=generator.integers(0, 5, 200))
    job = prepare(CompressRequest(folder / "model.pt2", str(folder / "data.npz"), target=target))
    model = to_module(job.loaded.program)
    return CompressionState(
        model, model, job.loaded.spec, job.loaded.example, job.data, job.profile, 0, True
    )


def run(state: CompressionState, **options: Any) -> CompressionState:
    options = {"distill": None, **options}
    return quantize.run(state, QuantizeStage(stage="quantize", **options), Silent())


@pytest.fixture(scope="module")
def plain(state: CompressionState) -> CompressionState:
    return run(state)


@pytest.fixture(scope="module")
def everything(state: CompressionState) -> CompressionState:
    return run(state, **OPTIONS["all"])


@pytest.fixture(scope="module")
def plain_layers(plain: CompressionState) -> list[tuple[str, ...]]:
    return layers_of(plain, onnx(plain))


def onnx(state: CompressionState) -> bytes:
    return export_onnx(state.model, state.example, state.spec, opset=17)


def layers_of(state: CompressionState, model: bytes) -> list[tuple[str, ...]]:
    report = read_kernels(model, state.details["float_reasons"])
    return [(x.name, x.op, x.kernel, x.precision) for x in report.layers]


@pytest.mark.parametrize("name", with_slow(OPTIONS, OPTIONS.keys() - {"all"}))
def test_every_option_keeps_the_kernels_and_the_outputs(
    state: CompressionState, plain_layers: list[tuple[str, ...]], name: str
) -> None:
    found = run(state, **OPTIONS[name])
    model = onnx(found)
    assert layers_of(found, model) == plain_layers
    assert {precision for *_, precision in plain_layers} == {"int8"}

    x = torch.from_numpy(np.random.default_rng(1).normal(size=(50, *IMAGE)).astype(np.float32))
    with torch.no_grad():
        original, converted = (output_tensors(m(x))[0] for m in (state.model, found.model))
    (runtime,) = run_onnx(model, state.spec, x)
    assert cosine(original, converted) > 0.999
    assert np.abs(runtime - converted.numpy()).max() < 0.01 * float(original.abs().max())


def test_the_stage_says_what_was_done(
    everything: CompressionState, plain: CompressionState
) -> None:
    details = everything.details
    assert details["corrected_biases"] > 3 and details["equalized_pairs"] >= 0
    assert all(after <= before for before, after in details["block_errors"])
    assert not {"corrected_biases", "equalized_pairs", "block_errors"} & plain.details.keys()


def test_the_description_names_the_options() -> None:
    everything = quantize.describe(QuantizeStage(stage="quantize", distill=None, **OPTIONS["all"]))
    assert everything == (
        "INT8 weights and activations, channels equalized, entropy ranges from 512 samples, "
        "learned rounding, biases corrected, no training"
    )
    default = quantize.describe(QuantizeStage(stage="quantize"))
    assert default.endswith("mse ranges from 512 samples, then 3 epochs of distillation")


def test_the_state_that_was_given_stays_as_it_was(state: CompressionState) -> None:
    before = {name: p.clone() for name, p in state.model.named_parameters()}
    run(state, **OPTIONS["all"])
    assert all(torch.equal(p, before[name]) for name, p in state.model.named_parameters())


def test_the_same_seed_gives_the_same_integers(
    state: CompressionState, everything: CompressionState
) -> None:
    first, second = (s.model.state_dict() for s in (everything, run(state, **OPTIONS["all"])))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_rounding_survives_as_codes(state: CompressionState, plain: CompressionState) -> None:
    """A learned code is the nearest one or one beside it, and differs where a block gained."""
    nearest = dict(plain.model.named_buffers())
    found = run(state, rounding="adaround", rounding_steps=60)
    learned = dict(found.model.named_buffers())
    names = [name for name in nearest if name.endswith("weight_codes")]
    moved = torch.cat([(nearest[n].int() - learned[n].int()).abs().flatten() for n in names])
    gained = any(after < 0.99 * before for before, after in found.details["block_errors"])
    assert moved.max() <= 1 and bool(moved.any()) >= gained


def test_distillation_starts_from_the_learned_rounding(state: CompressionState) -> None:
    still = Distill(epochs=1, learning_rate=1e-12)
    options = OPTIONS["adaround"]
    alone = dict(run(state, **options).model.named_buffers())
    distilled = dict(run(state, **options, distill=still).model.named_buffers())
    names = [name for name in alone if name.endswith("weight_codes")]
    assert names and all(torch.equal(alone[name], distilled[name]) for name in names)


def test_the_symmetric_graph_takes_every_option(tmp_path: Path) -> None:
    state = make_state("resnet", tmp_path, target="jetson-orin-nano")
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(50, *IMAGE)).astype(np.float32))
    found = run(state, **OPTIONS["all"])
    with torch.no_grad():
        outputs = [output_tensors(m(x))[0] for m in (state.model, found.model)]
    assert cosine(*outputs) > 0.999


def test_a_layer_that_stays_in_float_is_reported_by_its_name(tmp_path: Path) -> None:
    # It is also the model's output, so the labels of the data say nothing about it.
    found = run(make_state("dense", tmp_path))
    assert set(found.details["float_reasons"]) == {"head"}


def test_a_known_input_range_replaces_the_one_of_the_samples(tmp_path: Path) -> None:
    """Calibration samples that stay near 0, as synthesised ones do, must not clip real ones."""
    state = make_state("mobile", tmp_path)
    (name,) = (tensor.name for tensor in state.spec.inputs)
    known = replace(state, data=replace(state.data, input_ranges={name: (-20.0, 20.0)}))
    assert state.data.input_ranges == {}
    for case, reaches in ((state, (2.0, 6.0)), (known, (20.0, 20.2))):
        graph = run(case).model.graph
        (entry,) = graph.find_nodes(op="placeholder")
        (quantize_input,) = entry.users
        _, step, zero_point, _, highest, _ = quantize_input.args
        assert reaches[0] <= step * (highest - zero_point) <= reaches[1]
