"""Quantizer placement for ONNX Runtime on CPUs: whole blocks on integers.

ONNX Runtime turns ``DequantizeLinear -> op -> QuantizeLinear`` into one integer kernel only if
every input and the output of the operation are quantized, nothing reads the output in float, and
a ReLU in between is absorbed, which needs a range that starts at zero: hence asymmetric uint8
activations on the output of every integer operation. (Rules in
``onnxruntime/core/optimizer/qdq_transformer`` of 1.31; measured in ``docs/quantization.md``.)
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from edgekd.graph.canonical import is_selection
from edgekd.graph.tensors import is_float_tensor, is_op, layer_name
from edgekd.quantize.operations import (
    CONCATENATIONS,
    CONVOLUTIONS,
    LINEARS,
    MOVES,
    NORMS,
    POOLINGS,
    SUMS,
    WEIGHTED,
    fused_value,
    is_product,
    is_tensor_pair,
    is_weighted,
)
from edgekd.quantize.placement import NOTHING, Placement, QuantizedTensor, Scheme, node_inputs

SCHEME = Scheme(
    symmetric=False,
    integer_bias=True,
    integer_embeddings=True,
    absorbs_relu=True,
    quantizes_float_weights=True,
)


def place(module: fx.GraphModule, in_float: Mapping[str, str] = NOTHING) -> Placement:
    """Choose the tensors and weights to quantize in a canonical program.

    ``in_float`` keeps layers in float: layer name -> the reason to report.
    """
    placement = Placement()
    integer = _integer_operations(module, in_float, placement.reasons)
    quantized: set[fx.Node] = set()
    for node in module.graph.nodes:
        value = fused_value(node) if node in integer else node
        tensor = _quantized_tensor(node, value, integer, quantized)
        if tensor is not None:
            placement.tensors.append(tensor)
            quantized.add(value)
        if node in integer and is_op(node, *WEIGHTED):
            placement.weights.append(node.name)
    return placement


def _quantized_tensor(
    node: fx.Node, value: fx.Node, integer: set[fx.Node], quantized: set[fx.Node]
) -> QuantizedTensor | None:
    """Return what to do with the value of ``node``, given what comes before it."""
    if node in integer:
        if is_op(node, *LINEARS) and not _wanted(value, integer):
            return None  # QGemm may answer in float, which keeps logits at full resolution
        source = node_inputs(node)[0]
        shares = source.name if is_op(node, *CONVOLUTIONS) and is_selection(node) else None
        return QuantizedTensor(value.name, shares=shares)
    stored = node.op in ("get_attr", "output")
    if stored or not is_float_tensor(node) or not _wanted(node, integer):
        return None
    if is_op(node, *MOVES) and node_inputs(node)[0] in quantized:
        return QuantizedTensor(node.name, shares=node_inputs(node)[0].name)
    readers = [user.name for user in node.users if user in integer or _moves_on(user, integer)]
    return QuantizedTensor(node.name, readers=frozenset(readers))


def _wanted(value: fx.Node, integer: set[fx.Node]) -> bool:
    """Tell whether an integer operation reads ``value``, directly or through moves."""
    return any(user in integer or _moves_on(user, integer) for user in value.users)


def _moves_on(user: fx.Node, integer: set[fx.Node]) -> bool:
    return is_op(user, *MOVES) and _wanted(user, integer)


def _integer_operations(
    module: fx.GraphModule, in_float: Mapping[str, str], reasons: dict[str, str]
) -> set[fx.Node]:
    """Return the operations to run on integers, and note why the others do not.

    Taking one operation out can leave another without an integer reader, so this repeats until
    nothing changes.
    """
    integer: set[fx.Node] = set()
    for node in module.graph.nodes:
        reason = in_float.get(layer_name(node)) or _unsupported(module, node)
        if reason is None:
            integer.add(node)
        elif reason:
            reasons[layer_name(node)] = reason
    while True:
        out = {n: why for n in integer if (why := _pointless(n, integer)) is not None}
        if not out:
            return integer
        integer -= out.keys()
        reasons.update({layer_name(node): why for node, why in out.items()})


def _unsupported(module: fx.GraphModule, node: fx.Node) -> str | None:
    """Return None for a supported operation, a reason, or '' for one that is of no interest."""
    if is_op(node, *WEIGHTED):
        return None if is_weighted(module, node) else "its weight is computed, not stored"
    if is_product(node):
        # 4 to 18 % slower on integers, queries and keys or softmax and values or all four, at 64
        # tokens and 32 channels a head: docs/quantization.md, "Transformers".
        return "products of attention are faster in float"
    if is_op(node, *SUMS):
        if not is_tensor_pair(node):
            return "one operand is a constant"
        neighbours = [*node_inputs(node), *node.users]
        if any(is_op(neighbour, *NORMS) for neighbour in neighbours):
            return "it feeds or follows a normalisation, which runs in float"
        return None
    return None if is_op(node, *POOLINGS, *CONCATENATIONS) else ""


def _only_output(value: fx.Node) -> bool:
    """Tell whether ``value`` goes nowhere but out, directly or through moves."""
    return all(
        user.op == "output" or (is_op(user, *MOVES) and _only_output(user)) for user in value.users
    )


def _pointless(node: fx.Node, integer: set[fx.Node]) -> str | None:
    """Return why an operation should stay in float because of its readers, if it should."""
    value = fused_value(node)
    if is_op(node, *LINEARS):
        return None
    if is_op(node, *CONVOLUTIONS):
        if _only_output(value):
            return "its output is the model's output, kept in full resolution"
        return None
    return None if _wanted(value, integer) else "nothing that reads it runs on integers"
