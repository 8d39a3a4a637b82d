"""The quantize stage with fewer than 8 bits: options that meet them, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import IMAGE, ResNet, build

from edgekd.errors import StageError
from edgekd.export.kernels import read_kernels
from edgekd.export.onnx import export_onnx
from edgekd.graph.program import to_module
from edgekd.job import CompressRequest, prepare
from edgekd.model.save import save_model
from edgekd.progress import Silent
from edgekd.recipe import QuantizeStage
from edgekd.stages import quantize
from edgekd.state import CompressionState
from edgekd.training_settings import Distill

EVERYTHING: dict[str, Any] = {
    "bits": "w4a8",
    "equalize": True,
    "rounding": "adaround",
    "rounding_steps": 5,
    "bias_correction": True,
    "learn_step_sizes": True,
}


def make_state(folder: Path, target: str = "cpu") -> CompressionState:
    generator = np.random.default_rng(0)
    images = generator.normal(size=(100, *IMAGE)).astype(np.float32)
    save_model(build(ResNet), torch.from_numpy(images[:2]), folder / "model.pt2")
    np.savez(folder / "data.npz", x=images, y=generator.integers(0, 5, 100))
    job = prepare(CompressRequest(folder / "model.pt2", str(folder / "data.npz"), target=target))
    model = to_module(job.loaded.program)
    return CompressionState(
        model, model, job.loaded.spec, job.loaded.example, job.data, job.profile, 0, True
    )


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_state(tmp_path_factory.mktemp("state"))


def stage(**options: Any) -> QuantizeStage:
    return QuantizeStage(stage="quantize", **{"distill": None, **options})


@pytest.mark.slow
def test_every_option_meets_four_bits(state: Any) -> None:
    training = Distill(epochs=1, max_steps=2, learning_rate=1e-4)
    found = quantize.run(state, stage(**EVERYTHING, distill=training), Silent())
    model = export_onnx(found.model, found.example, found.spec, opset=17)
    layers = read_kernels(model, found.details["float_reasons"]).layers
    assert {layer.precision for layer in layers} == {"int8"}
    bits = [layer.bits for layer in layers if layer.op == "Conv" and "shortcut" not in layer.name]
    assert bits == ["w8a8", *["w4a8"] * 6]
    codes = [t for n, t in found.model.named_buffers() if n.endswith("weight_codes")]
    assert sorted(int(t.abs().max()) > 7 for t in codes) == [False] * 6 + [True] * 2
    assert all(after <= before for before, after in found.details["block_errors"])


def test_distillation_moves_the_steps_of_weights(state: Any) -> None:
    training = Distill(epochs=10, learning_rate=1e-4, augment="none")
    options = {"bits": "w4a8", "learn_step_sizes": True}
    before, after = (
        quantize.run(state, stage(**options, distill=distill), Silent())
        for distill in (None, training)
    )
    assert after.details["distillation_kept"]
    steps = [dict(found.model.named_buffers()) for found in (before, after)]
    names = [name for name in steps[0] if name.endswith("weight_scale")]
    assert all(not torch.equal(steps[0][name], steps[1][name]) for name in names)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": "w4a16"}, "is a convolution"),
        ({"layers": [{"match": "nothing", "bits": "float"}]}, "no layer is called 'nothing'"),
    ],
)
def test_mistakes_are_found_before_any_work(state: Any, options: Any, words: str) -> None:
    with pytest.raises(StageError, match=words):
        quantize.requires(state, stage(**options))


def test_a_recipe_that_leaves_everything_in_float_is_refused(state: Any) -> None:
    with pytest.raises(StageError, match="leaves every layer in float"):
        quantize.requires(state, stage(bits="float"))


def test_a_target_with_an_older_opset_has_no_blocks(tmp_path: Path) -> None:
    jetson = make_state(tmp_path, target="jetson-orin-nano")
    with pytest.raises(StageError, match=r"head: w4a16 .* reads opset 17"):
        quantize.requires(jetson, stage(layers=[{"match": "head", "bits": "w4a16"}]))


def test_the_description_names_bits_and_rules() -> None:
    rule = {"match": "blocks.0.*", "bits": "float"}
    assert quantize.describe(stage(bits="w4a8", layers=[rule])).startswith(
        "4-bit weights, INT8 activations (blocks.0.* float), "
    )
    assert "groups of 64" in quantize.describe(stage(bits="w4a16", group_size=64))
