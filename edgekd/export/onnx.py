"""ONNX through torch's exporter: checked, with the model's own names and no traces of the build."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import onnx
import torch
from onnx_ir import Graph, Model, Node, Value, to_proto
from torch import Tensor, fx

from edgekd.device import LayerNorm
from edgekd.errors import ExportError
from edgekd.export.int4 import TRANSLATIONS, store_int4
from edgekd.export.layer_norm import decompose_layer_norms
from edgekd.export.opset import OLDEST_WRITTEN, lower_opset
from edgekd.graph.program import to_program
from edgekd.graph.tensors import is_op
from edgekd.spec import ModelSpec

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SUMS = (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor)


def export_onnx(
    module: fx.GraphModule,
    example: tuple[Tensor, ...],
    spec: ModelSpec,
    *,
    opset: int,
    layer_norm: LayerNorm = "operator",
) -> bytes:
    """Return ``module`` as a serialised ONNX model with a dynamic batch.

    Inputs and outputs carry the names of ``spec``; layers are named after their weights. Raises
    ExportError if torch's exporter fails or onnx's checker refuses the result.
    """
    program = to_program(module, example)
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=max(opset, OLDEST_WRITTEN),
                custom_translation_table=TRANSLATIONS,
            )
            assert exported is not None
        model = exported.model
        store_int4(model)
        _rename_ends(model, spec)
        _name_sums(model.graph, module)
        _name_layers(model.graph)
        _strip_metadata(model)
        proto = to_proto(model)
        _name_batch_axis(proto)
        if layer_norm == "decomposed":
            decompose_layer_norms(proto)
        if opset < OLDEST_WRITTEN:
            lower_opset(proto, opset)
        _check_opset(proto, opset)
        onnx.checker.check_model(proto, full_check=True)
    except (ExportError, KeyboardInterrupt):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:300] if lines else type(error).__name__
        raise ExportError(
            f"the model cannot be written as ONNX opset {opset}: {reason}; run with --debug for "
            "the exporter's own report"
        ) from error
    return bytes(proto.SerializeToString(deterministic=True))


def _check_opset(proto: onnx.ModelProto, opset: int) -> None:
    """Raise ExportError unless the model is of the opset asked for: a failed conversion is silent.

    Also refuses operators that are not ONNX's own.
    """
    found = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    used = {node.domain or "ai.onnx" for node in proto.graph.node}
    foreign = used - {"ai.onnx"}
    if foreign:
        raise ExportError(f"the exporter wrote operators of {', '.join(sorted(foreign))}")
    if found.get("ai.onnx") != opset:
        raise ExportError(
            f"the exporter wrote ONNX opset {found.get('ai.onnx')} instead of {opset}; this model "
            "needs a device profile with another opset"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep a library's progress and warnings off the terminal; its errors still raise."""
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _rename_ends(model: Model, spec: ModelSpec) -> None:
    """Give inputs and outputs their names, moving an inner value out of the way if need be."""
    ends = {*model.graph.inputs, *model.graph.outputs}
    wanted = [*(t.name for t in spec.inputs), *(t.name for t in spec.outputs)]
    for value in _values(model.graph):
        if value not in ends and value.name in wanted:
            value.name = f"{value.name}_inner"
    for value, tensor in zip(model.graph.inputs, spec.inputs, strict=True):
        value.name = tensor.name
    for value, tensor in zip(model.graph.outputs, spec.outputs, strict=True):
        if value in model.graph.inputs:
            raise ExportError(f"the output {tensor.name!r} is an input passed through unchanged")
        value.name = tensor.name


def _values(graph: Graph) -> Iterator[Value]:
    yield from graph.inputs
    yield from [*graph.initializers.values()]  # renaming changes its keys
    for node in graph:
        yield from node.outputs


def _name_sums(graph: Graph, module: fx.GraphModule) -> None:
    """Name sums and products as they are called in ``module``; the exporter numbers them anew.

    They come in the same order. Where the exporter makes others of its own, all keep its names.
    """
    for target in SUMS:
        written = [node for node in graph if _written_for(node, target)]
        names = [node.name for node in module.graph.nodes if is_op(node, target)]
        if len(written) == len(names):
            for node, name in zip(written, names, strict=True):
                node.name = name


def _written_for(node: Node, target: torch._ops.OpOverload) -> bool:
    """Tell whether the exporter says that ``node`` gives the result of an operation ``target``."""
    operation = str(node.metadata_props.get("namespace", "")).rpartition("/")[2]
    called, _, kind = operation.partition(": ")
    return kind == str(target) and node.name == f"node_{called}"


def _name_layers(graph: Graph) -> None:
    """Name convolutions and matrix products after their weight, the rest after torch's node."""
    taken: set[str] = set()
    for node in graph:
        weight = _stored_weight(node) if node.op_type in WEIGHTED else None
        name = (node.name or node.op_type).removeprefix("node_")
        if weight is not None:
            path, _, leaf = weight.rpartition(".")
            name = path or leaf.removesuffix("_codes")
        while name in taken:
            name += "_"
        taken.add(name)
        node.name = name


def _stored_weight(node: Node) -> str | None:
    """Return the name of the stored tensor behind the second operand, through Q/DQ steps."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    while value is not None:
        if value.is_initializer():
            return value.name
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and producer.inputs else None
        if producer is not None and producer.op_type not in (
            "DequantizeLinear",
            "QuantizeLinear",
            "Transpose",
        ):
            return None
    return None


def _strip_metadata(model: Model) -> None:
    """Drop the exporter's notes, which name files of the machine that ran it."""
    model.metadata_props.clear()
    model.producer_name = "edgekd"
    model.graph.metadata_props.clear()
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
    for value in _values(model.graph):
        value.metadata_props.clear()


def _name_batch_axis(proto: onnx.ModelProto) -> None:
    """Call the free axis ``batch`` instead of torch's symbol."""
    graph = proto.graph
    for value in [*graph.input, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].HasField("dim_value"):
            symbol = dims[0].dim_param
            for other in [*graph.input, *graph.output, *graph.value_info]:
                for dim in other.type.tensor_type.shape.dim:
                    if symbol and dim.dim_param == symbol:
                        dim.dim_param = "batch"
