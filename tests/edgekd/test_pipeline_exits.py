"""Whole runs with early exits: the bundle that comes out, and what it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from exits import Residual
from networks import conv_bn
from PIL import Image
from torch import Tensor, nn

from edgekd.errors import RecipeError
from edgekd.export.tensorrt_rules import check_tensorrt
from edgekd.job import CompressRequest, prepare
from edgekd.model.save import save_model
from edgekd.pipeline import CompressResult, compress, plan
from edgekd.progress import Silent
from edgekd.runtime import Cascade, load

SHORT = {"max_steps": 30, "batch_size": 32, "augment": "none", "learning_rate": 0.01}
EXITS = {
    "stage": "early_exit",
    "at": ["blocks.0", "blocks.1"],
    "joint": None,
    "heads": SHORT,
    "operating_points": [{"name": "default", "max_drop": 20.0}],
}
JOINT = {**EXITS, "joint": {**SHORT, "feature_weight": 0.0}}
QUANTIZE = {"stage": "quantize", "calibration": {"method": "minmax"}, "distill": None}
SPARSIFY = {"stage": "sparsify", "pattern": "2:4", "distill": None}
PRUNE = {
    "stage": "prune",
    "macs": 0.8,
    "multiple": 1,
    "steps": 1,
    "samples": 32,
    "blocks": False,
    "distill": SHORT,
}


class Deep(nn.Module):
    """A stem and four residual blocks, much more than four classes of coarse images need."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = conv_bn(1, width, stride=2)
        self.blocks = nn.Sequential(*(Residual(width) for _ in range(4)))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def images(count: int, seed: int) -> tuple[Any, Any]:
    """Return images uint8 ``(n, 1, 12, 12)`` of stripes in four directions, some hard to see."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 4, count)
    row, column = np.mgrid[:12, :12]
    shapes = np.stack([row, column, row + column, row - column]) // 2 % 2 * 2 - 1
    strength = generator.uniform(0.1, 1, (count, 1, 1))
    x = 128 + 60 * shapes[y] * strength + generator.normal(0, 25, (count, 12, 12))
    return x.clip(0, 255).astype(np.uint8)[:, None], y


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network, its data, and images of the same kind that it has never seen."""
    folder = tmp_path_factory.mktemp("exits")
    (x, y), (x_val, y_val) = images(400, 0), images(400, 1)
    torch.manual_seed(0)
    net = Deep()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    inputs, labels = torch.from_numpy(x).float().sub(128).div(64), torch.from_numpy(y)
    for _ in range(8):
        for chosen in torch.randperm(400).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
    save_model(net.eval(), inputs[:2], folder / "model.pt2")
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_val=x_val, y_val=y_val)
    pixels, classes = images(300, 2)
    pixels[0] = x_val[0]  # one that it has seen
    for index, (image, label) in enumerate(zip(pixels, classes, strict=True)):
        path = folder / "more" / str(label) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    return folder


def request(folder: Path, *stages: dict[str, Any], name: str, **options: Any) -> CompressRequest:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "stages": list(stages)}))
    given = {"target": "jetson", "out": folder / name, "cache": folder / "cache", **options}
    return CompressRequest(
        folder / "model.pt2",
        str(folder / "data.npz"),
        mean=(0.502,),
        std=(0.251,),
        recipe=str(folder / f"{name}.yaml"),
        **given,
    )


@pytest.fixture(scope="module")
def behind(folder: Path) -> CompressResult:
    """Heads on a quantized program, for a target that is not here."""
    return compress(request(folder, QUANTIZE, EXITS, name="behind"))


def validation(folder: Path) -> tuple[Any, Any]:
    with np.load(folder / "data.npz") as arrays:
        return arrays["x_val"], arrays["y_val"]


def check_cascade(folder: Path, result: CompressResult) -> None:
    """Hold a bundle to what its manifest says of it."""
    x, y = validation(folder)
    cascade = result.manifest["cascade"]
    points = cascade["operating_points"]
    assert points["full"]["thresholds"] == [None] * len(cascade["exits"])
    with (
        load(result.out, "compressed") as model,
        load(result.out, operating_point="full") as opened,
    ):
        assert isinstance(opened, Cascade)
        x = opened.preprocess(x)
        whole = model(x)
        for name, point in points.items():
            found = opened.with_operating_point(name).run(x)
            shares = np.bincount(found.exits, minlength=len(cascade["segments"])) / len(y)
            assert shares.tolist() == point["measured"]["shares"]
            right = (found.outputs.argmax(1) == y).mean()
            assert right == pytest.approx(point["measured"]["accuracy"])
            if name == "full":
                assert np.array_equal(found.outputs, whole)
    accuracy = result.manifest["accuracy"]["compressed"]["value"]
    assert (whole.argmax(1) == y).mean() == pytest.approx(accuracy)


def test_exits_behind_quantize_for_a_target_that_is_elsewhere(
    folder: Path, behind: CompressResult
) -> None:
    check_cascade(folder, behind)
    cascade = behind.manifest["cascade"]
    assert behind.passed, behind.messages
    assert all(segment["latency_ms"] is None for segment in cascade["segments"])
    for point in cascade["operating_points"].values():
        assert "latency" not in point["measured"]
    assert behind.manifest["early_exits"]["unit"] == "share"
    assert behind.manifest["early_exits"]["chosen_on"] == "validation"
    assert any("give --exit-data" in note for note in behind.manifest["notes"])
    default = cascade["operating_points"][cascade["default"]]
    assert sum(default["measured"]["shares"][:-1]) > 0.2  # easy ones leave
    for segment in cascade["segments"]:
        model = (behind.out / segment["file"]).read_bytes()
        assert check_tensorrt(model, opset=behind.manifest["target"]["opset"]) == ()
        onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    outputs = onnx.load(behind.out / "model.onnx").graph.output
    assert [value.name for value in outputs] == ["output"]
    assert "exits." not in str(onnx.load(behind.out / "model.onnx").graph.node)


def test_the_final_model_is_that_of_the_recipe_without_exits(
    folder: Path, behind: CompressResult
) -> None:
    plain = compress(request(folder, QUANTIZE, name="plain"))
    x, _ = validation(folder)
    with load(plain.out) as without, load(behind.out, "compressed") as with_exits:
        x = without.preprocess(x)
        assert np.array_equal(without(x), with_exits(x))


def test_a_second_run_takes_everything_from_the_cache(folder: Path, behind: CompressResult) -> None:
    given = request(folder, QUANTIZE, EXITS, name="behind")
    assert all(step.cached for step in plan(given).steps)
    progress = Notes()
    again = compress(given, progress)
    for stage in ("quantize", "early_exit"):
        assert f"{stage}: already done, taken from the cache" in progress.notes
    assert "thresholds of early exits: already chosen, taken from the cache" in progress.notes
    assert again.manifest["cascade"] == behind.manifest["cascade"]


@pytest.mark.slow
def test_other_thresholds_do_not_train_again(folder: Path, behind: CompressResult) -> None:
    points = [{"name": "bold", "max_drop": 40.0}, {"name": "fast", "max_drop": 60.0}]
    changed = {**EXITS, "confidence": "margin", "operating_points": points, "certainty": 0.9}
    given = request(folder, QUANTIZE, changed, name="bold")
    first = prepare(request(folder, QUANTIZE, EXITS, name="behind"))
    assert prepare(given).key(2) == first.key(2)
    other = request(folder, QUANTIZE, {**EXITS, "heads": {**SHORT, "epochs": 9}}, name="other")
    assert prepare(other).key(2) != first.key(2) and prepare(other).key(1) == first.key(1)
    progress = Notes()
    result = compress(given, progress)
    assert "early_exit: already done, taken from the cache" in progress.notes
    assert not any("already chosen" in note for note in progress.notes)
    cascade = result.manifest["cascade"]
    assert cascade["confidence"] == "margin"
    names = {name.removesuffix("-uncertified") for name in cascade["operating_points"]}
    assert names == {"full", "bold", "fast"}
    check_cascade(folder, result)


def test_thresholds_from_images_in_folders_leave_out_what_was_seen(folder: Path) -> None:
    given = request(
        folder,
        QUANTIZE,
        EXITS,
        name="folders",
        exit_data=str(folder / "more"),
        single_file=True,
    )
    progress = Notes()
    result = compress(given, progress)
    facts = result.manifest["early_exits"]
    assert facts["chosen_on"] == "exit data" and facts["samples"] == 299
    assert result.manifest["data"]["exits"]["count"] == 299
    note = "1 of 300 samples of --exit-data are copies of samples of --data, and were left out"
    assert note in progress.notes and note in result.manifest["notes"]
    assert not any("give --exit-data" in note for note in result.manifest["notes"])
    assert facts["single_file_point"] and (result.out / "cascade.onnx").is_file()
    check_cascade(folder, result)


def test_max_drop_leaves_the_rest_to_the_first_point(folder: Path) -> None:
    result = compress(request(folder, QUANTIZE, EXITS, name="limited", max_drop=15.0))
    lost = result.manifest["stages"][-1]["drop_points"]
    (wanted,) = result.manifest["early_exits"]["wanted"]
    assert wanted["max_drop"] == pytest.approx(15.0 - max(0.0, lost))


@pytest.mark.slow
def test_no_point_without_a_promise_is_the_default(folder: Path) -> None:
    """400 samples cannot tell that at most 0.1 points are lost."""
    strict = [{"name": "careful", "max_drop": 0.1}, {"name": "loose", "max_drop": 20.0}]
    result = compress(
        request(folder, QUANTIZE, {**EXITS, "operating_points": strict}, name="strict")
    )
    cascade = result.manifest["cascade"]
    assert {"full", "careful-uncertified"} < set(cascade["operating_points"])
    assert cascade["default"] == "full"
    point = cascade["operating_points"]["careful-uncertified"]
    assert not point["certified"] and point["samples_needed"] != 0
    assert any("careful-uncertified" in note for note in result.manifest["notes"])
    with load(result.out) as model:  # nothing leaves early at "full": the plain model does it
        assert not isinstance(model, Cascade)
    check_cascade(folder, result)


@pytest.mark.slow
def test_exits_before_quantize_behind_pruned_and_sparse_weights(folder: Path) -> None:
    result = compress(request(folder, PRUNE, SPARSIFY, JOINT, QUANTIZE, name="all"))
    names = [stage["name"] for stage in result.manifest["stages"]]
    assert names == ["original", "prune", "sparsify", "early_exit", "quantize"]
    assert result.manifest["stages"][3]["details"]["joint"]["train_loss"]
    held = result.manifest["stages"][4]["details"]["held_zeros"]
    assert held["planned"] == result.manifest["stages"][2]["details"]["sparsity"]["zeros"] > 0
    check_cascade(folder, result)
    in_float = torch.export.load(result.out / "model.pt2")  # what pruning came to, without heads
    assert not any("exits." in name for name in in_float.state_dict)
    again = Notes()
    compress(request(folder, PRUNE, SPARSIFY, JOINT, QUANTIZE, name="all"), again)
    assert sum("taken from the cache" in note for note in again.notes) == 5


@pytest.mark.slow
def test_auxiliary_heads_give_a_plain_bundle(folder: Path) -> None:
    result = compress(request(folder, {**JOINT, "auxiliary": True}, QUANTIZE, name="auxiliary"))
    assert "cascade" not in result.manifest and not list(result.out.glob("segment_*"))
    with load(result.out) as model:
        assert not isinstance(model, Cascade)
    with pytest.raises(RecipeError, match="--single-file is for early exits"):
        compress(
            request(
                folder, {**JOINT, "auxiliary": True}, QUANTIZE, name="auxiliary", single_file=True
            )
        )


@pytest.mark.slow
def test_heads_that_know_nothing_give_the_model_without_exits(folder: Path) -> None:
    useless = {**EXITS, "heads": {**SHORT, "max_steps": 1, "learning_rate": 1e-9}}
    useless["operating_points"] = [{"name": "default", "max_drop": 0.0}]
    result = compress(request(folder, QUANTIZE, useless, name="useless"))
    if result.manifest["cascade"] is None:
        assert not result.passed and "no early exit saves time" in result.messages[-1]
        assert not list(result.out.glob("segment_*"))
        with load(result.out) as model:
            assert not isinstance(model, Cascade)
    else:
        assert result.manifest["cascade"]["default"] == "full"


@pytest.mark.slow
def test_exits_here_are_timed(folder: Path) -> None:
    result = compress(request(folder, JOINT, QUANTIZE, name="timed", target="cpu"))
    facts = result.manifest["early_exits"]
    assert facts["unit"] == "ms" and all(entry["cost"] > 0 for entry in facts["candidates"])
    cascade = result.manifest["cascade"]
    if cascade is None:  # the network is so small that another call can cost more than it saves
        assert "no early exit saves time" in result.messages[-1]
        return
    check_cascade(folder, result)
    assert all(segment["latency_ms"]["p50"] > 0 for segment in cascade["segments"])
    for point in cascade["operating_points"].values():
        latency = point["measured"]["latency"]
        assert latency["ratio_low"] <= latency["ratio"] <= latency["ratio_high"]
        calls = [entry["calls"] for entry in latency["by_exit"]]
        shares = point["measured"]["shares"]
        assert calls == [round(share * 400) * 5 for share in shares][: len(calls)]
