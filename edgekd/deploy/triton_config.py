"""``config.pbtxt``: what Triton has to know of a model.

Fields are those of Triton's ``model_config.proto``; what they mean is in NVIDIA's "Triton Inference
Server", "Model Configuration". Parameters of the backends are those of the README of
``onnxruntime_backend`` and ``openvino_backend``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekd.deploy.choice import Choice
from edgekd.deploy.pbtxt import Message, Value, Word
from edgekd.errors import BundleError
from edgekd.runtime.manifest import Manifest
from edgekd.spec import TensorSpec

DATA_TYPES: Mapping[str, str] = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}
"""numpy dtype name -> Triton's, for every dtype that a manifest may hold."""

MODEL_FILES = {
    "onnxruntime": "model.onnx",
    "openvino": "model.onnx",
    "tensorrt": "model.plan",
}
LABELS_NAME = "labels.txt"


@dataclass(frozen=True)
class Serving:
    """How Triton is to run the model; see the options of ``edgekd deploy triton``."""

    max_batch: int
    preferred_batch: tuple[int, ...]
    queue_delay_us: int
    instances: int
    device: str
    threads: int | None
    warmup: str


def config_of(
    name: str, manifest: Manifest, choice: Choice, serving: Serving, labelled: str | None
) -> Message:
    """Return the configuration; ``labelled`` is the output that ``labels.txt`` names.

    Raises BundleError where a warmup needs shapes that the model leaves open.
    """
    batched = serving.max_batch > 0
    fields: list[tuple[str, Value]] = [
        ("name", name),
        ("backend", choice.backend),
        ("default_model_filename", MODEL_FILES[choice.backend]),
        ("max_batch_size", serving.max_batch),
        ("version_policy", _message(latest=_message(num_versions=1))),
    ]
    fields += [("input", _tensor(spec, batched=batched)) for spec in manifest.spec.inputs]
    fields += [
        ("output", _tensor(spec, batched=batched, labelled=spec.name == labelled))
        for spec in manifest.spec.outputs
    ]
    kind = Word("KIND_GPU" if serving.device == "gpu" else "KIND_CPU")
    fields.append(("instance_group", _message(count=serving.instances, kind=kind)))
    if serving.max_batch > 1:
        fields.append(("dynamic_batching", _dynamic_batching(serving)))
    if choice.backend == "onnxruntime" and manifest.target["runtime"] != "onnxruntime":
        fields.append(("optimization", _message(graph=_message(level=_AS_WRITTEN))))
    fields += [("parameters", _parameter(k, v)) for k, v in _parameters(choice, serving).items()]
    if serving.warmup != "none":
        fields += [("model_warmup", message) for message in _warmup(manifest, choice, serving)]
    return Message(tuple(fields))


# Graph level 2 of the ONNX Runtime backend turns off all of ONNX Runtime's graph optimisations. The
# backend passes on no session.disable_quant_qdq, which edgekd.runtime sets for such graphs
# (edgekd/runtime/options.py); this is the only setting it has that keeps their float biases.
_AS_WRITTEN = 2


def _dynamic_batching(serving: Serving) -> Message:
    fields: list[tuple[str, Value]] = []
    if serving.preferred_batch:
        fields.append(("preferred_batch_size", serving.preferred_batch))
    fields.append(("max_queue_delay_microseconds", serving.queue_delay_us))
    return Message(tuple(fields))


def _parameters(choice: Choice, serving: Serving) -> dict[str, str]:
    """Return the backend's own settings for a CPU; on a GPU and in TensorRT there is none."""
    if serving.device == "gpu" or choice.backend == "tensorrt":
        return {}
    threads = None if serving.threads is None else str(serving.threads)
    if choice.backend == "onnxruntime":
        return {} if threads is None else {"intra_op_thread_count": threads}
    found = {"NUM_STREAMS": "1"}  # one call gets all threads, as in edgekd.runtime
    if threads is not None:
        found["INFERENCE_NUM_THREADS"] = threads
    if choice.precision == "bf16":
        found["HINT_BF16"] = "YES"
    return found


def _parameter(key: str, value: str) -> Message:
    return _message(key=key, value=_message(string_value=value))


def _tensor(spec: TensorSpec, *, batched: bool, labelled: bool = False) -> Message:
    fields: list[tuple[str, Value]] = [
        ("name", spec.name),
        ("data_type", Word(DATA_TYPES[spec.dtype])),
    ]
    dims = [-1 if size is None else size for size in _axes(spec.shape, batched=batched)]
    fields.append(("dims", dims or [1]))
    if not dims:  # Triton has no tensors without axes: the request has one of length 1
        fields.append(("reshape", _message(shape=())))
    if labelled:
        fields.append(("label_filename", LABELS_NAME))
    return Message(tuple(fields))


def _axes(shape: Sequence[int | None], *, batched: bool) -> Sequence[int | None]:
    """Return the axes that Triton is told of: without that of the batch where it batches."""
    return shape[1:] if batched else shape


def _warmup(manifest: Manifest, choice: Choice, serving: Serving) -> list[Message]:
    """One request with a batch of 1, and one as large as allowed."""
    sizes = sorted({1, serving.max_batch or 1})
    inputs = [("inputs", _warmup_input(spec, choice, serving)) for spec in manifest.spec.inputs]
    return [Message((("name", f"batch_{size}"), ("batch_size", size), *inputs)) for size in sizes]


def _warmup_input(spec: TensorSpec, choice: Choice, serving: Serving) -> Message:
    shape: Sequence[int | None] = spec.shape
    if choice.engine is not None:
        shape = choice.engine.shapes[spec.name].best
    dims = [size for size in _axes(shape, batched=serving.max_batch > 0) if size is not None]
    if len(dims) != len(_axes(shape, batched=serving.max_batch > 0)):
        raise BundleError(
            f"the input {spec.name} has open axes ({spec}), so nothing can be made up for a "
            "warmup: leave out --warmup"
        )
    # Any number may be an index in whose place the model has nothing; zero is always there.
    kind = "random_data" if serving.warmup == "random" and "float" in spec.dtype else "zero_data"
    value = Message(
        (
            ("data_type", Word(DATA_TYPES[spec.dtype])),
            ("dims", dims or [1]),
            (kind, Word("true")),
        )
    )
    return _message(key=spec.name, value=value)


def _message(**fields: Value) -> Message:
    return Message(tuple(fields.items()))
