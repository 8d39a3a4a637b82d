"""Bad calibration data: a clear error or a stated fallback, never NaN in a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from marks import with_slow
from networks import IMAGE, Chain, build
from onnx import numpy_helper
from torch import Tensor, nn

from edgekd.errors import DataError, EdgekdError, ModelError, StageError
from edgekd.export.onnx import export_onnx
from edgekd.export.parity import onnx_predictor, predict_all
from edgekd.graph.program import to_module
from edgekd.job import CompressRequest, Job, prepare
from edgekd.model.save import save_model
from edgekd.pipeline import compress
from edgekd.progress import Silent
from edgekd.recipe import QuantizeStage
from edgekd.stages import quantize
from edgekd.state import CompressionState

TARGETS = ("cpu", "jetson")
# A dead layer goes through every option for both, and what has no target here is for jetson.
cpu_is_enough = pytest.mark.parametrize("target", with_slow(TARGETS, ["jetson"]))
Array = np.ndarray[Any, Any]


@dataclass
class Notes(Silent):
    """Keeps what the stage says."""

    lines: list[str] = field(default_factory=list)

    def note(self, message: str) -> None:
        self.lines.append(message)


class Words(nn.Module):
    """The mean of the embeddings of three words, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids).mean(1))


def images(count: int = 60, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(count, *IMAGE)).astype(np.float32)


def prepared(folder: Path, x: Array, target: str = "jetson", net: nn.Module | None = None) -> Job:
    """Write a network and the data ``x`` to files, and open them as the command line does."""
    path = folder / "model.pt2"
    example = torch.from_numpy(images(2)) if x.dtype.kind != "i" else torch.zeros(2, 3).long()
    save_model(net or build(Chain), example, path)
    np.savez(folder / "data.npz", x=x, y=np.arange(len(x)) % 3)
    return prepare(CompressRequest(path, str(folder / "data.npz"), target=target))


def quantized(job: Job, **options: Any) -> tuple[CompressionState, bytes, list[str]]:
    """Return the quantized model, its ONNX after the checks that hold always, and the notes.

    What is said of this processor is no note of the data, and left out.
    """
    model, spec = to_module(job.loaded.program), job.loaded.spec
    state = CompressionState(model, model, spec, job.loaded.example, job.data, job.profile, 0, True)
    notes = Notes()
    stage = QuantizeStage(stage="quantize", **{"distill": None, **options})
    after = quantize.run(state, stage, notes)
    written = export_onnx(after.model, state.example, spec, opset=job.profile.opset)
    for tensor in onnx.load_from_string(written).graph.initializer:
        assert np.isfinite(numpy_helper.to_array(tensor)).all(), tensor.name
    predict = onnx_predictor(written, spec, job.profile.runtime)
    outputs, _ = predict_all(predict, job.data, job.data.validation, spec, Silent())
    assert all(np.isfinite(values).all() for values in outputs)
    return after, written, [line for line in notes.lines if line != quantize.FEWER_BITS]


def dead_relu(net: Chain) -> None:
    net.a[1].bias.fill_(-100.0)


def zero_layer(net: Chain) -> None:
    net.hidden.weight.zero_()
    net.hidden.bias.zero_()


def zero_channel(net: Chain) -> None:
    net.b[0].weight[3].zero_()


def nearly_zero_channel(net: Chain) -> None:
    net.b[0].weight[3].fill_(1e-38)


def damaged(change: Callable[[Chain], None]) -> nn.Module:
    net = build(Chain)
    with torch.no_grad():
        change(net)  # type: ignore[arg-type]
    return net


@cpu_is_enough
@pytest.mark.parametrize(
    ("method", "value"),
    with_slow(
        [("minmax", 0.0), ("percentile", 0.0), ("mse", 0.0), ("entropy", 0.0), ("mse", 1.0)],
        [("percentile", 0.0), ("mse", 0.0)],
    ),
)
def test_images_that_are_all_equal(tmp_path: Path, target: str, method: str, value: float) -> None:
    job = prepared(tmp_path, np.full_like(images(), value), target)
    state, _, notes = quantized(
        job, calibration={"method": method}, equalize=True, bias_correction=True
    )
    assert ("x" in state.details.get("zero_ranges", [])) == (value == 0.0)
    assert bool(notes) == ("zero_ranges" in state.details)


@cpu_is_enough
def test_a_dead_input_channel(tmp_path: Path, target: str) -> None:
    x = images()
    x[:, 1] = 0.0
    assert quantized(prepared(tmp_path, x, target))[2] == []


@cpu_is_enough
@pytest.mark.parametrize("change", [dead_relu, zero_layer])
def test_a_layer_that_gives_zero_only_is_a_stated_fallback(
    tmp_path: Path, target: str, change: Callable[[Chain], None]
) -> None:
    state, _, (note,) = quantized(prepared(tmp_path, images(), target, damaged(change)))
    (name, *_) = state.details["zero_ranges"]
    assert f"the range of {name}" in note and "is zero on the calibration samples" in note


@cpu_is_enough
@pytest.mark.parametrize("change", [zero_channel, nearly_zero_channel])
def test_a_channel_of_zero_weights(
    tmp_path: Path, target: str, change: Callable[[Chain], None]
) -> None:
    quantized(prepared(tmp_path, images(), target, damaged(change)), equalize=True)


@pytest.mark.parametrize("target", TARGETS)
def test_a_dead_layer_goes_through_every_option(tmp_path: Path, target: str) -> None:
    quantized(
        prepared(tmp_path, images(), target, damaged(dead_relu)),
        equalize=True,
        bias_correction=True,
        rounding="adaround",
        rounding_steps=2,
        distill={"max_steps": 2, "augment": "none"},
    )


@cpu_is_enough
def test_a_single_calibration_sample(tmp_path: Path, target: str) -> None:
    job = prepared(tmp_path, images(4), target)
    assert len(job.data.calibration) == 1
    quantized(job, distill={"max_steps": 2, "augment": "none"})


@pytest.mark.parametrize("factor", [1e-30, 1e-38, 1e30])
def test_very_small_and_very_large_numbers(tmp_path: Path, factor: float) -> None:
    x = (images() * factor).astype(np.float32)
    try:
        quantized(prepared(tmp_path, x))
    except EdgekdError as error:
        assert "finite" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: np.where(images() > 2, np.nan, images()), "input x holds nan at index"),
        (lambda: np.where(images() > 2, np.inf, images()), "input x holds inf at index"),
        (lambda: images().astype(np.float64) * 1e300, "which float32 cannot"),
        (lambda: images()[:, :2], "float32 of shape 2,8,8, the model takes"),
        (lambda: images()[..., 0], "float32 of shape 3,8, the model takes"),
        (lambda: images()[:, :, :, :4], "float32 of shape 3,8,4, the model takes"),
        (lambda: images().astype(np.complex64), "complex64 values, not numbers"),
        (lambda: images().astype("U8"), "values, not numbers"),
        (lambda: images(1), "too few samples to split: 1"),
        (lambda: images(2), "too few samples to split: 1"),
        (lambda: images(0), "set is empty|too few samples"),
    ],
)
def test_data_that_cannot_be_used_is_one_line(
    tmp_path: Path, make: Callable[[], Array], message: str
) -> None:
    with pytest.raises(DataError, match=message) as error:
        prepared(tmp_path, make())
    assert "\n" not in str(error.value)


def test_integers_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    save_model(build(Chain), torch.from_numpy(images(2)), path)
    np.savez(tmp_path / "data.npz", x=np.ones((60, *IMAGE), np.int64), y=np.arange(60) % 3)
    with pytest.raises(DataError, match="int64 of shape 3,8,8, the model takes x: float32"):
        prepare(CompressRequest(path, str(tmp_path / "data.npz")))


@pytest.mark.parametrize(("wrong", "where"), [(10, 59), (-1, 0)])
def test_ids_beyond_the_models_table_are_named(tmp_path: Path, wrong: int, where: int) -> None:
    ids = np.random.default_rng(0).integers(0, 10, (60, 3))
    quantized(prepared(tmp_path, ids, net=Words().eval()))
    ids[where, 1] = wrong
    with pytest.raises(DataError, match=rf"holds {wrong} \(sample .* ids from 0 to 9"):
        prepared(tmp_path, ids, net=Words().eval())


def test_a_weight_that_is_not_finite_names_its_layer(tmp_path: Path) -> None:
    def spoil(net: Chain) -> None:
        net.hidden.weight[0, 0] = float("nan")

    job = prepared(tmp_path, images(), net=damaged(spoil))
    with pytest.raises(StageError, match="hidden has NaN or infinity in its weight"):
        quantized(job)


def request(folder: Path, job: Job) -> CompressRequest:
    recipe = {"name": "fast", "stages": [{"stage": "quantize", "distill": None}]}
    (folder / "fast.yaml").write_text(yaml.safe_dump(recipe))
    return CompressRequest(
        job.request.model,
        job.request.data,
        target="jetson",
        recipe=str(folder / "fast.yaml"),
        out=folder / "out",
        cache=folder / "cache",
    )


@pytest.mark.slow
def test_the_fallback_is_in_the_manifest(tmp_path: Path) -> None:
    job = prepared(tmp_path, images(), net=damaged(dead_relu))
    notes = compress(request(tmp_path, job)).manifest["notes"]
    assert any("is zero on the calibration samples, so that its step is 1" in n for n in notes)


def test_a_model_that_gives_nan_is_refused_with_the_operation(tmp_path: Path) -> None:
    def spoil(net: Chain) -> None:
        net.head.weight.fill_(float("inf"))

    job = prepared(tmp_path, images(), net=damaged(spoil))
    with pytest.raises(ModelError, match=r"NaN or infinity for 12 of 12 .* first in head"):
        compress(request(tmp_path, job))
