"""Model repositories, read with Triton's own schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from deployable import all_dtypes_model, engine, fields, tensor
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from edgekd.deploy.choice import Choice
from edgekd.deploy.pbtxt import to_text
from edgekd.deploy.triton import deploy_triton
from edgekd.deploy.triton_config import DATA_TYPES, Serving, config_of
from edgekd.errors import BundleError
from edgekd.runtime import load
from edgekd.runtime.manifest import parse_manifest
from edgekd.runtime.tensors import DTYPES

Make = Callable[..., Path]

FREE = {"max_batch": 4, "preferred_batch": (), "queue_delay_us": 0, "instances": 1}
FREE |= {"device": "cpu", "threads": None, "warmup": "none"}


def parse(folder: Path, schema: Any) -> Any:
    return text_format.Parse((folder / "config.pbtxt").read_text("ascii"), schema.ModelConfig())


def parameters(config: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def test_every_dtype_of_a_manifest_has_a_type(schema) -> None:
    assert set(DATA_TYPES) == set(DTYPES.values())
    assert set(DATA_TYPES.values()) <= set(schema.DataType.keys())


def test_every_field(make: Make, schema, tmp_path: Path) -> None:
    bundle = make(
        classes=["red", "green", "sky blue"],
        preprocessing={"images": {"layout": "NHWC", "mean": [0.5] * 3, "std": [0.2] * 3}},
    )
    done = deploy_triton(
        bundle,
        tmp_path / "repository",
        max_batch=16,
        preferred_batch=(4, 16),
        queue_delay_us=250,
        instances=3,
        warmup="random",
    )
    config = parse(done.folder, schema)

    assert done.folder == tmp_path / "repository" / "tiny"
    assert (config.name, config.backend, config.platform) == ("tiny", "onnxruntime", "")
    assert config.default_model_filename == "model.onnx"
    assert config.max_batch_size == 16
    assert config.version_policy.latest.num_versions == 1
    (given_,), (answer,) = config.input, config.output
    assert (given_.name, given_.data_type, list(given_.dims)) == ("images", 11, [3, 4, 4])
    assert (answer.name, answer.data_type, list(answer.dims)) == ("logits", 11, [3])
    assert answer.label_filename == "labels.txt"
    assert not given_.HasField("reshape") and not answer.HasField("reshape")
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, schema.ModelInstanceGroup.KIND_CPU)
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 16]
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert parameters(config) == {"intra_op_thread_count": "2"}
    assert not config.HasField("optimization")
    assert [(w.name, w.batch_size) for w in config.model_warmup] == [
        ("batch_1", 1),
        ("batch_16", 16),
    ]
    for warmup in config.model_warmup:
        value = warmup.inputs["images"]
        assert (value.data_type, list(value.dims)) == (11, [3, 4, 4])
        assert value.WhichOneof("input_data_type") == "random_data" and value.random_data
    assert (done.folder / "labels.txt").read_text("utf-8") == "red\ngreen\nsky blue\n"
    readme = (done.folder / "README.md").read_text("utf-8")
    assert "images: float32[N, 3, 4, 4]" in readme and "mean 0.5, 0.5, 0.5" in readme


@pytest.mark.parametrize("role", ["compressed", "baseline"])
def test_the_model_has_the_bytes_of_the_bundle(make: Make, tmp_path: Path, role: str) -> None:
    bundle = make()
    done = deploy_triton(bundle, tmp_path / "repository", model=role)

    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    wanted = manifest["files"][manifest["models"][role]]["sha256"]
    content = (done.folder / "1" / "model.onnx").read_bytes()
    assert hashlib.sha256(content).hexdigest() == wanted
    assert {path.name for path in (done.folder / "1").iterdir()} == {"model.onnx"}


PRINTABLE = st.characters(exclude_categories=["C", "Z"], include_characters=" ")
NAMES = st.text(PRINTABLE, min_size=1, max_size=20)
SHAPES = st.lists(st.none() | st.integers(1, 200), max_size=4)
TENSORS = st.lists(
    st.tuples(NAMES, st.sampled_from(sorted(DATA_TYPES)), SHAPES),
    min_size=1,
    max_size=4,
    unique_by=lambda entry: entry[0],
)


@given(name=NAMES, inputs=TENSORS, outputs=TENSORS, batched=st.booleans())
def test_any_signature(schema, name: str, inputs: Any, outputs: Any, batched: bool) -> None:
    first = [None] if batched else []
    spec = {
        "inputs": [tensor(n, dtype, *first, *shape) for n, dtype, shape in inputs],
        "outputs": [tensor(n, dtype, *first, *shape) for n, dtype, shape in outputs],
    }
    files = {name: {"sha256": "0" * 64, "bytes": 1} for name in ("model.onnx", "baseline.onnx")}
    manifest = parse_manifest({**fields(spec=spec), "files": files})
    serving = Serving(**{**FREE, "max_batch": 4 if batched else 0})

    choice = Choice("model.onnx", "compressed", "onnxruntime")
    text = to_text(config_of(name, manifest, choice, serving, None))
    config = text_format.Parse(text, schema.ModelConfig())

    assert config.name == name
    for side, wanted in ((config.input, inputs), (config.output, outputs)):
        assert len(side) == len(wanted)
        for found, (tensor_name, dtype, shape) in zip(side, wanted, strict=True):
            assert found.name == tensor_name
            assert schema.DataType.Name(found.data_type) == DATA_TYPES[dtype]
            dims = [-1 if size is None else size for size in shape]
            assert list(found.dims) == (dims or [1])
            assert found.HasField("reshape") == (not dims)
            assert list(found.reshape.shape) == []


def test_without_a_free_batch_axis(make: Make, schema, tmp_path: Path) -> None:
    spec = {"inputs": [tensor("x", "int64", 1, None)], "outputs": [tensor("y", "bool", None)]}
    bundle = make(spec=spec)

    config = parse(deploy_triton(bundle, tmp_path / "r").folder, schema)

    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [1, -1] and list(config.output[0].dims) == [-1]
    assert config.output[0].data_type == schema.TYPE_BOOL
    assert not config.HasField("dynamic_batching")
    with pytest.raises(BundleError, match="no free batch axis, so Triton cannot batch"):
        deploy_triton(bundle, tmp_path / "other", max_batch=2)
    with pytest.raises(BundleError, match=r"open axes .* leave out --warmup"):
        deploy_triton(bundle, tmp_path / "other", warmup="zero")
    assert not (tmp_path / "other").exists()


def test_batches_that_the_client_makes(make: Make, schema, tmp_path: Path) -> None:
    done = deploy_triton(make(), tmp_path / "r", max_batch=0)
    config = parse(done.folder, schema)
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [-1, 3, 4, 4]
    assert "--disable-auto-complete-config" in (done.folder / "README.md").read_text("utf-8")


def test_whole_numbers_are_warmed_up_with_zeros(make: Make, schema, tmp_path: Path) -> None:
    spec = {"inputs": [tensor("ids", "int64", None, 8)], "outputs": [tensor("y", "float32", None)]}
    config = parse(deploy_triton(make(spec=spec), tmp_path / "r", warmup="random").folder, schema)
    kinds = {w.inputs["ids"].WhichOneof("input_data_type") for w in config.model_warmup}
    assert kinds == {"zero_data"}


def test_an_engine_comes_first(make: Make, schema, tmp_path: Path) -> None:
    done = deploy_triton(make(engines=[engine()]), tmp_path / "r", warmup="zero")
    config = parse(done.folder, schema)

    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    assert (done.folder / "1" / "model.plan").read_bytes() == b"bytes of model.engine"
    assert config.max_batch_size == 32
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert [w.batch_size for w in config.model_warmup] == [1, 32]
    assert list(config.model_warmup[0].inputs["images"].dims) == [3, 4, 4]
    assert not config.parameters
    assert any("TensorRT 10.3.0 on compute capability 8.7" in note for note in done.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": 64}, "takes batches up to 32, not 64"),
        ({"device": "cpu"}, "runs on a GPU"),
        ({"preferred_batch": (33,)}, "a batch of 33 cannot be preferred: the largest is 32"),
        ({"engine": "other"}, r"no engine 'other' \(engines: model.engine\)"),
        ({"model": "baseline", "backend": "tensorrt"}, "no engine of the model 'baseline'"),
        ({"backend": "onnxruntime", "engine": "model.engine"}, "leave out --engine"),
        ({"backend": "openvino", "device": "gpu"}, "runs on CPUs"),
        ({"model": "other"}, "has no model 'other', only baseline, compressed"),
        ({"name": "../up"}, "cannot be the name of a model"),
        ({"name": ""}, "cannot be the name of a model"),
    ],
)
def test_what_does_not_fit(make: Make, tmp_path: Path, options: Any, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        deploy_triton(make(engines=[engine()]), tmp_path / "r", **options)
    assert not (tmp_path / "r").exists()


def test_one_of_several_engines(make: Make, tmp_path: Path) -> None:
    bundle = make(engines=[engine("a.engine"), engine("b.engine")])
    with pytest.raises(BundleError, match=r"several engines: name one with --engine"):
        deploy_triton(bundle, tmp_path / "r")
    done = deploy_triton(bundle, tmp_path / "r", engine="b.engine")
    assert (done.folder / "1" / "model.plan").read_bytes() == b"bytes of b.engine"


def test_an_engine_for_large_batches_only(make: Make, tmp_path: Path) -> None:
    shapes = {key: [size, 3, 4, 4] for key, size in (("min", 4), ("opt", 8), ("max", 8))}
    done = deploy_triton(make(engines=[engine(shapes={"images": shapes})]), tmp_path / "r")
    assert any("takes no batch below 4" in note for note in done.notes)


def test_triton_loads_no_engine_of_tensorrt_rtx(make: Make, tmp_path: Path) -> None:
    bundle = make(engines=[engine(binding="tensorrt_rtx")])
    assert deploy_triton(bundle, tmp_path / "r").choice.backend == "onnxruntime"
    with pytest.raises(BundleError, match="TensorRT-RTX, which Triton does not load"):
        deploy_triton(bundle, tmp_path / "r", backend="tensorrt")


def test_the_deployment_is_followed(make: Make, schema, tmp_path: Path) -> None:
    chosen = {"model": "baseline", "runtime": "openvino", "precision": "bf16"}
    bundle = make(deployment=chosen)

    done = deploy_triton(bundle, tmp_path / "r")
    config = parse(done.folder, schema)

    assert config.backend == "openvino"
    assert (done.folder / "1" / "model.onnx").read_bytes().endswith(b"baseline__")
    assert parameters(config) == {
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": "2",
        "HINT_BF16": "YES",
    }
    assert done.notes == ("as compress chose: the baseline model on OpenVINO (bf16)",)

    other = deploy_triton(bundle, tmp_path / "r", backend="onnxruntime", threads=4)
    config = parse(other.folder, schema)
    assert (other.folder / "1" / "model.onnx").read_bytes().endswith(b"compressed")
    assert parameters(config) == {"intra_op_thread_count": "4"}
    assert "this is the compressed model on ONNX Runtime" in other.notes[0]


def test_a_graph_for_tensorrt_is_computed_as_written(make: Make, schema, tmp_path: Path) -> None:
    target = {"name": "jetson", "runtime": "tensorrt", "threads": 1}
    done = deploy_triton(make(target=target), tmp_path / "r")
    config = parse(done.folder, schema)
    assert config.optimization.graph.level == 2
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert any("computes it as written" in note for note in done.notes)
    with pytest.raises(BundleError, match="graph is written for tensorrt"):
        deploy_triton(make(target=target), tmp_path / "other", backend="openvino")


def test_graph_level_2_keeps_what_the_graph_says(make: Make, tmp_path: Path) -> None:
    """The backend's level 2 is ONNX Runtime's ``ORT_DISABLE_ALL``; the model's bias is 0.004."""
    spec = {
        "inputs": [tensor("images", "float32", None, 2, 4, 4), tensor("open", "float32", None, 1)],
        "outputs": [tensor("logits", "float32", None, 1, 4, 4)],
    }
    model = all_dtypes_model({})
    bundle = make({"model.onnx": model}, spec=spec, target={"name": "j", "runtime": "tensorrt"})
    images = np.random.default_rng(0).normal(size=(2, 2, 4, 4)).astype(np.float32)
    feed = {"images": images, "open": np.zeros((2, 1), np.float32)}
    wanted = load(bundle)(**feed)

    def answers(level: Any) -> Any:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(model, options)
        return session.run(["logits"], feed)[0]

    levels = onnxruntime.GraphOptimizationLevel
    assert np.array_equal(answers(levels.ORT_DISABLE_ALL), wanted)
    assert not np.array_equal(answers(levels.ORT_ENABLE_ALL), wanted)


@pytest.mark.parametrize(
    ("name", "wanted"), [("a b/ü", "a_b__"), ("..", "model"), ("-x", "x"), ("é" * 200, "_" * 100)]
)
def test_the_name_is_made_safe(make: Make, tmp_path: Path, name: str, wanted: str) -> None:
    assert deploy_triton(make(name=name), tmp_path / "r").folder == tmp_path / "r" / wanted


@pytest.mark.parametrize(
    ("classes", "words"),
    [(["a", "b"], "not one number for each of 2 classes"), (["a", "b\nc", "d"], "line break")],
)
def test_labels_that_cannot_be(make: Make, tmp_path: Path, classes: Any, words: str) -> None:
    done = deploy_triton(make(classes=classes), tmp_path / "r")
    assert not (done.folder / "labels.txt").exists()
    assert words in done.notes[0]


def test_an_altered_bundle_is_refused(make: Make, tmp_path: Path) -> None:
    bundle = make()
    path = bundle / "baseline.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")  # not even the file that is deployed
    with pytest.raises(BundleError, match=r"baseline.onnx was altered"):
        deploy_triton(bundle, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_early_exits_are_left_out_and_said(make: Make, tmp_path: Path) -> None:
    link = tensor("h", "float32", None, 8)
    cascade = {
        "confidence": "margin",
        "exits": [{"name": "exit_0", "after": "a", "head": "linear", "temperature": 1.0}],
        "segments": [{"file": "s0.onnx", "link": None}, {"file": "s1.onnx", "link": link}],
        "operating_points": {"fast": {"thresholds": [0.5]}},
        "default": "fast",
    }
    bundle = make({"s0.onnx": b"0", "s1.onnx": b"1"}, cascade=cascade)
    done = deploy_triton(bundle, tmp_path / "r")
    assert (done.folder / "1" / "model.onnx").read_bytes().endswith(b"compressed")
    assert any("model without them" in note for note in done.notes)
