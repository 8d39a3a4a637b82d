"""Where an ONNX graph with early exits can be cut: the one tensor that crosses behind an exit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import onnx
from onnx import NodeProto, TensorProto

from edgekd.errors import ExportError
from edgekd.export.quantized_graph import QuantizedGraph

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
# Masks, positions and shapes are stored in other types.
_WEIGHT_TYPES = frozenset(
    getattr(TensorProto, name)
    for name in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT4", "UINT4")
)


class Origins:
    """What every value of a graph is made from.

    ``carried`` are the values that the model's inputs and weights make together. The rest can be
    had again at any place: constants, and what comes from the inputs without a weight (a mask).
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = QuantizedGraph(model)
        self.inputs = [value.name for value in model.graph.input]
        self.carried: set[str] = set()
        self._constant = set(self.graph.constants)
        self._weights = {name for name, t in self.graph.constants.items() if _is_weight(t)}
        for node in self.graph.nodes:
            self._follow(node)

    @cached_property
    def position(self) -> dict[str, int]:
        """Return the place in the graph's order of the node that computes a value."""
        return {name: i for i, node in enumerate(self.graph.nodes) for name in node.output if name}

    def weighted(self, node: NodeProto) -> bool:
        """Tell whether ``node`` itself reads a weight; the steps of a quantizer are none."""
        read = node.input[:1] if node.op_type in _QUANTIZERS else node.input
        return any(name in self._weights for name in read)

    def needed(self, names: Iterable[str], given: Iterable[str] = ()) -> set[int]:
        """Return the places of all nodes that make ``names`` from ``given`` and what is stored."""
        found: set[int] = set()
        todo, known = list(names), set(given)
        while todo:
            name = todo.pop()
            place = self.position.get(name)
            if name in known or place is None or place in found:
                continue
            found.add(place)
            todo.extend(self.graph.nodes[place].input)
        return found

    def _follow(self, node: NodeProto) -> None:
        read = [name for name in node.input if name]
        made = [name for name in node.output if name]
        if all(name in self._constant for name in read):
            self._constant.update(made)
            if self.weighted(node):
                self._weights.update(made)
        elif self.weighted(node) or any(name in self.carried for name in read):
            self.carried.update(made)


def find_link(origins: Origins, exit: str, later: Sequence[str]) -> str:
    """Return the tensor through which all that ``later`` outputs share with ``exit`` passes.

    It is the last one for which that holds, but where it has a quantizer beside it, the codes are
    taken: a quarter of the bytes cross, and no step is done that would not be done anyway.

    Raises ExportError where more than one tensor has to cross.
    """
    before = origins.needed([exit])
    behind = origins.needed(later)
    read = [name for place in behind - before for name in origins.graph.nodes[place].input]
    frontier = {
        name
        for name in [*read, *later]
        if name in origins.carried and origins.position[name] in before
    }
    if not frontier:
        raise ExportError(f"what comes behind {exit} reads nothing of what was computed for it")
    for place in sorted(before & behind, reverse=True):
        for name in origins.graph.nodes[place].output:
            if name in origins.carried and _all_pass(origins, frontier, name):
                return _as_integers(origins, name, behind - before, set(later))
    names = ", ".join(sorted(frontier))
    raise ExportError(
        f"{exit} cannot be cut off: behind it {len(frontier)} tensors are still needed ({names}); "
        "put the exit where one tensor carries everything"
    )


def _as_integers(origins: Origins, name: str, behind: set[int], later: set[str]) -> str:
    """Return the codes that ``name`` comes from, or that alone are made of it behind the exit."""
    reader = origins.graph.made_by(name, "DequantizeLinear")
    if reader is not None:
        return str(reader.input[0])
    nodes = [origins.graph.nodes[place] for place in behind]
    readers = [node for node in nodes if name in node.input]
    if [node.op_type for node in readers] == ["QuantizeLinear"] and name not in later:
        return str(readers[0].output[0])
    return name


def _all_pass(origins: Origins, names: Iterable[str], gate: str) -> bool:
    """Tell whether ``names`` can be made from ``gate`` without reading a weight again."""
    todo, seen = list(names), {gate}
    while todo:
        name = todo.pop()
        if name in seen or name not in origins.carried:
            continue
        seen.add(name)
        node = origins.graph.producer[name]
        if origins.weighted(node):
            return False
        todo.extend(node.input)
    return True


def _is_weight(tensor: TensorProto) -> bool:
    """Tell whether a constant is a table of learned numbers, not a single one or a shape."""
    size = 1
    for length in tensor.dims:
        size *= length
    return size > 1 and tensor.data_type in _WEIGHT_TYPES
