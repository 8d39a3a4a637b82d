"""The sparsify stage alone, and its zeros after everything that quantize can do to weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from marks import with_slow
from networks import IMAGE, build, conv_bn
from onnx import numpy_helper
from states import make_state
from torch import Tensor, nn

from edgekd.cache import StepCache
from edgekd.device import load_profile
from edgekd.errors import StageError
from edgekd.export.deployed import export_for
from edgekd.graph.batchnorm import batch_norms
from edgekd.graph.program import output_tensors
from edgekd.progress import Silent
from edgekd.recipe import LayerBits, QuantizeStage, SparsifyStage
from edgekd.sparse.masking import held_zeros
from edgekd.stages import checkpoint, quantize, sparsify
from edgekd.state import CompressionState
from edgekd.training_settings import Distill, Recovery

TRAINING = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-2, "augment": "none"}


class Net(nn.Module):
    """A residual block between two ends, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv_bn(3, 8), conv_bn(8, 8), conv_bn(8, 8)
        self.wide, self.hidden, self.head = conv_bn(8, 32), nn.Linear(32, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        x = torch.relu(self.wide(x)).mean((2, 3))
        return self.head(torch.relu(self.hidden(x)))


SPARSE = ["a.0.weight", "b.0.weight", "wide.0.weight", "hidden.weight"]


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> CompressionState:
    return make_state(build(Net), IMAGE, tmp_path_factory.mktemp("state"))


def stage(**changed: Any) -> SparsifyStage:
    return SparsifyStage(stage="sparsify", **{"distill": None, **changed})


def run(state: CompressionState, **changed: Any) -> CompressionState:
    sparsify.requires(state, stage(**changed))
    return sparsify.run(state, stage(**changed), Silent())


def kept_in_groups(mask: Tensor, size: int) -> set[int]:
    """Return how many weights stay in the groups along the inputs."""
    counts = mask.movedim(1, -1).reshape(-1, size).sum(1)
    return set(counts.tolist())


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
@pytest.mark.parametrize("distill", [None, Recovery(**TRAINING)])
def test_every_group_keeps_exactly_two_of_four(
    state: CompressionState, method: str, distill: Recovery | None
) -> None:
    after = run(state, method=method, distill=distill)

    masks = held_zeros(after.model)
    assert list(masks) == SPARSE
    assert all(kept_in_groups(mask, 4) == {2} for mask in masks.values())
    facts = after.details["sparsity"]
    assert facts["zeros"] == sum(int((~mask).sum()) for mask in masks.values())
    assert facts["dense"].keys() == {"stem.0", "head"}
    assert batch_norms(after.model), "quantize folds them"


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("ramp", with_slow([0.0, 0.5], [0.0]))
@pytest.mark.parametrize("pattern", ["unstructured", "block"])
def test_training_ends_at_the_exact_sparsity(
    state: CompressionState, pattern: str, ramp: float, ema: float | None
) -> None:
    recovery = Recovery(**TRAINING, ema=ema)
    after = run(state, pattern=pattern, sparsity=0.75, block=(4, 2), ramp=ramp, distill=recovery)
    masks = held_zeros(after.model)
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.75 * total)
    assert after.details["sparsity"]["zeros"] == round(0.75 * total)
    if pattern == "block":
        blocks = [m.reshape(len(m) // 4, 4, m.shape[1] // 2, 2, -1) for m in masks.values()]
        assert all((b.all(1).all(2) | ~b.any(1).any(2)).all() for b in blocks)
    before, found = (m(*state.example) for m in (state.model, after.model))
    assert not torch.allclose(*(output_tensors(x)[0] for x in (before, found)))


class Stopping(Silent):
    """Stops the work behind one step of the training."""

    def __init__(self, stop: int) -> None:
        self.left = stop

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Any]:
        def advance(count: int) -> None:
            self.left -= count
            if self.left <= 0:
                raise InterruptedError

        yield advance


@pytest.mark.parametrize("stop", with_slow([3, 8], [8]))
def test_a_stage_that_is_stopped_goes_on_to_the_same_weights(
    state: CompressionState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(checkpoint, "INTERVAL", 0.0)
    options = stage(pattern="unstructured", sparsity=0.75, distill=Recovery(**TRAINING))
    given = replace(state, cache=StepCache(tmp_path), key="a-step")
    expected = sparsify.run(state, options, Silent())  # 10 steps, the first 5 with rising masks

    with pytest.raises(InterruptedError):
        sparsify.run(given, options, Stopping(stop))
    progress = Notes()
    found = sparsify.run(given, options, progress)

    assert "sparsify: distillation: goes on where an earlier run stopped" in progress.notes
    a, b = (dict(after.model.named_parameters()) for after in (expected, found))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_state_that_was_given_does_not_change(state: CompressionState) -> None:
    run(state, distill=Recovery(**TRAINING))
    assert held_zeros(state.model) == {}


def test_the_ends_get_zeros_only_when_asked(state: CompressionState) -> None:
    after = run(state, pattern="unstructured", sparsity=0.5, keep_ends=False)
    assert held_zeros(after.model).keys() == {"stem.0.weight", *SPARSE, "head.weight"}


def test_where_nothing_is_gained_nothing_is_done(state: CompressionState) -> None:
    progress = Notes()
    options = stage(if_no_gain="skip", distill=Recovery(loss="top-k-kl", top_k=99))
    sparsify.requires(state, options)
    after = sparsify.run(state, options, progress)

    assert after.model is state.model
    assert after.details["sparsity"]["skipped"]
    (note,) = progress.notes
    assert "left out: x86-64 computer with ONNX Runtime runs dense kernels" in note
    assert sparsify.describe(options, state.profile).startswith("left out")

    jetson = replace(state, profile=load_profile("jetson"))
    options = stage(if_no_gain="skip")
    sparsify.requires(jetson, options)
    after = sparsify.run(jetson, options, progress)
    assert list(held_zeros(after.model)) == SPARSE
    assert "0 of this model's 4 layers" in progress.notes[-1]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"pattern": "2:9"}, "no layer of the model can have the pattern 2:9"),
        ({"pattern": "block", "sparsity": 0.5, "method": "sparsegpt"}, "no form for blocks"),
        ({"pattern": "unstructured"}, "needs 'sparsity'"),
        ({"distill": Recovery(loss="top-k-kl", top_k=3)}, "sparsify: 'distill.top_k: 3'"),
    ],
)
def test_what_cannot_be_done_is_refused(
    state: CompressionState, changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(StageError, match=reason):
        sparsify.requires(state, stage(**changed))


def test_describe_says_what_is_done_and_gained() -> None:
    profile = load_profile("jetson")
    text = sparsify.describe(
        stage(pattern="unstructured", sparsity=0.75, distill=Recovery()), profile
    )
    assert "75% zeros by magnitude, rising over 50% of the steps, then 10 epochs" in text
    assert "it runs 2:4 faster" in text
    assert "rising" not in sparsify.describe(stage(distill=Recovery()), profile)
    assert "no training" in sparsify.describe(stage(), profile)


# -- zeros after quantization ---------------------------------------------------------------------

FINE = Distill(epochs=2, batch_size=16, learning_rate=1e-2, augment="none")
QUANTIZED: dict[str, dict[str, Any]] = {
    "calibration": {"distill": None},
    "distillation": {"distill": FINE},
    "ema and learned steps": {
        "distill": FINE.model_copy(update={"ema": 0.9}),
        "learn_step_sizes": True,
    },
    "adaround": {"distill": None, "rounding": "adaround", "rounding_steps": 60},
    "all": {
        "distill": FINE,
        "equalize": True,
        "rounding": "adaround",
        "rounding_steps": 20,
        "bias_correction": True,
    },
    "w4a8": {"bits": "w4a8", "rounding": "adaround", "rounding_steps": 60, "distill": FINE},
    "w4a16": {
        "layers": (LayerBits(match="hidden", bits="w4a16"),),
        "group_size": 16,
        "distill": FINE,
    },
    "float layers": {"layers": (LayerBits(match="[ab].0", bits="float"),), "distill": FINE},
}


def stored_weights(model: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Return the weights that an ONNX file stores, as (outputs, inputs, ..), by layer."""
    graph = onnx.load_from_string(model).graph
    found = {}
    for tensor in graph.initializer:
        layer, _, leaf = tensor.name.partition(".weight")
        if len(tensor.dims) > 1 and leaf in ("", "_codes"):
            found[f"{layer}.weight"] = numpy_helper.to_array(tensor)
    return found


def check_zeros(
    after: CompressionState, planned: dict[str, Tensor], group: int, kept: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Check the plan against what the exported file stores; return that."""
    onnx_bytes = export_for(after.profile, after.model, after.example, after.spec).onnx
    weights = stored_weights(onnx_bytes)
    assert planned.keys() <= weights.keys()
    for name, mask in planned.items():
        weight = torch.from_numpy(weights[name].astype(np.float32))
        if weight.shape != mask.shape:
            weight = weight.T  # a linear layer as (inputs, outputs)
        assert (weight[~mask] == 0).all(), name
        assert kept_in_groups(mask, group) == {kept}
        assert max(kept_in_groups(weight != 0, group)) <= kept
    return weights


@pytest.fixture(scope="module")
def sparse(state: CompressionState) -> CompressionState:
    return replace(run(state), keep_zeros=True)


@pytest.mark.parametrize(
    ("target", "name"),
    with_slow(
        [*(("cpu", name) for name in QUANTIZED), ("jetson", "all"), ("jetson", "float layers")],
        [
            *(("cpu", name) for name in QUANTIZED if name not in ("w4a8", "distillation")),
            ("jetson", "all"),
        ],
    ),
)
def test_zeros_are_integer_zeros_in_the_file(
    sparse: CompressionState, target: str, name: str
) -> None:
    given = replace(sparse, profile=load_profile(target))
    planned = held_zeros(given.model)

    after = quantize.run(given, QuantizeStage(stage="quantize", **QUANTIZED[name]), Silent())

    weights = check_zeros(after, planned, 4, 2)
    integer = {n for n, w in weights.items() if n in planned and w.dtype != np.float32}
    in_float = {"a.0.weight", "b.0.weight"} if name == "float layers" else set()
    assert integer == planned.keys() - in_float
    held = after.details["held_zeros"]
    assert held["planned"] == sum(int((~mask).sum()) for mask in planned.values())
    assert held["found"] >= held["planned"]


def test_without_the_flag_training_may_fill_zeros(sparse: CompressionState) -> None:
    given = replace(sparse, keep_zeros=False)
    after = quantize.run(given, QuantizeStage(stage="quantize", distill=FINE), Silent())
    assert "held_zeros" not in after.details
    with pytest.raises(AssertionError):
        check_zeros(after, held_zeros(given.model), 4, 2)
