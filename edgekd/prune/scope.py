"""What the rules of the analysis read and write."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, fx

from edgekd.graph.tensors import constant, is_op
from edgekd.prune.labels import Array, Labels, Lock, varying

aten = torch.ops.aten
TRANSPOSES = (
    aten.mT.default,
    aten.movedim.int,
    aten.movedim.intlist,
    aten.numpy_T.default,
    aten.permute.default,
    aten.swapaxes.default,
    aten.swapdims.default,
    aten.t.default,
    aten.transpose.int,
)
LARGEST = 2**22  # elements that get labels of their own; more would take seconds

Role = Literal["produced", "consumed"]
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .*\n\s*(?P<code>.*)')


class UnfollowedError(Exception):
    """A rule cannot follow this use of its operation; the message says why."""


@dataclass(frozen=True)
class Layer:
    """A layer and the axis of its weight along which its outputs lie."""

    node: fx.Node
    tensor: str
    axis: int


class Scope:
    """Labels of all tensors of a program, and the concrete shapes for a batch of two.

    ``eager`` is False in the first pass over a program, when ties that would cross the heads of an
    attention wait until the heads are known.
    """

    def __init__(self, module: fx.GraphModule, values: dict[str, Any]) -> None:
        self.module = module
        self.labels = Labels()
        self.eager = False
        self.arrays: dict[str, Array | list[Array]] = {}
        self.axes: dict[tuple[str, int], Array] = {}
        self.roles: dict[tuple[str, int], dict[Role, None]] = {}
        self.elements: dict[str, Array] = {}
        self.layers: dict[tuple[str, int], Layer] = {}
        self._values = values
        self._kept: dict[tuple[str, str], Array] = {}
        self._names: dict[int, str] = {}
        for node in module.graph.nodes:
            if (tensor := constant(module, node)) is not None:
                self._names.setdefault(id(tensor), str(node.target))

    def stored_name(self, node: fx.Node) -> str | None:
        """Return the first name in the program of the tensor behind a get_attr node."""
        tensor = constant(self.module, node)
        return None if tensor is None else self._names[id(tensor)]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return the shape of a tensor for a batch of two."""
        return tuple(self.value(node))

    def value(self, argument: object) -> Any:
        """Return a number that the program computes from shapes, or the argument itself."""
        return self._values[argument.name] if isinstance(argument, fx.Node) else argument

    def is_tensor(self, argument: object) -> bool:
        """Tell whether an argument is one tensor (shapes are kept as ``torch.Size``)."""
        return isinstance(argument, fx.Node) and isinstance(self.value(argument), torch.Size)

    def array(self, node: fx.Node) -> Array:
        """Return the compressed labels of a tensor."""
        if node.op == "get_attr":
            found: Any = self._element_labels(node)
        else:
            found = self.arrays[node.name]
        assert isinstance(found, np.ndarray)
        return self.labels.compress(found)

    def axis(self, name: str, axis: int, role: Role) -> Array:
        """Return the labels along one axis of a weight, and note what the axis is there for."""
        size = self._tensor(name).shape[axis]
        if (name, axis) not in self.axes:
            self.axes[name, axis] = self.labels.fresh(size)
            if size == 1:
                self.labels.lock(self.axes[name, axis], Lock("it has a single output"))
        self.roles.setdefault((name, axis), {})[role] = None
        return self.axes[name, axis]

    def fresh(self, node: fx.Node, use: str, count: int) -> Array:
        """Return new labels for a node, the same ones in every pass."""
        if (node.name, use) not in self._kept:
            self._kept[node.name, use] = self.labels.fresh(count)
        return self._kept[node.name, use]

    def locked(self, node: fx.Node, ndim: int, lock: Lock) -> Array:
        """Return the labels of a tensor of which nothing can go."""
        found = self.fresh(node, "locked", 1)
        self.labels.lock(found, lock)
        return found.reshape([1] * ndim)

    def weight(self, argument: object) -> tuple[str, tuple[int, ...]] | None:
        """Return the stored tensor behind an argument, and where each of its axes comes from.

        Sees through transpositions, which a matrix often meets before a product.
        """
        if not isinstance(argument, fx.Node):
            return None
        name = self.stored_name(argument)
        if name is not None:
            return name, tuple(range(self._tensor(name).ndim))
        if not is_op(argument, *TRANSPOSES) or (below := self.weight(argument.args[0])) is None:
            return None
        return below[0], tuple(below[1][i] for i in transposition(argument, len(below[1])))

    def lock_stored(self, name: str, lock: Lock) -> None:
        """Say that a stored tensor has to stay as it is."""
        for axis in range(self._tensor(name).ndim):
            labels = self.axes.setdefault((name, axis), self.labels.fresh(0))
            if labels.size == 0:
                size = self._tensor(name).shape[axis]
                labels = self.axes[name, axis] = self.labels.fresh(size)
            self.labels.lock(labels, lock)
        if name in self.elements:
            self.labels.lock(self.elements[name], lock)

    def lines(self) -> dict[tuple[str, int], Array]:
        """Return the labels of every stored tensor along each axis that holds units."""
        found = dict(self.axes)
        for name, labels in self.elements.items():
            array = self.labels.compress(labels)
            found.update({(name, axis): array.reshape(-1) for axis in varying(array)})
        return found

    def _tensor(self, name: str) -> Tensor:
        path, _, leaf = name.rpartition(".")
        found = getattr(self.module.get_submodule(path), leaf)
        assert isinstance(found, Tensor)
        return found

    def _element_labels(self, node: fx.Node) -> Array:
        name = self.stored_name(node)
        assert name is not None, f"{node} is no tensor"
        if name not in self.elements:
            shape = tuple(self._tensor(name).shape)
            count = int(np.prod(shape))
            if count > LARGEST:
                self.elements[name] = self.labels.fresh(1).reshape([1] * len(shape))
                self.lock_stored(name, Lock("it is tied to a very large stored tensor"))
            else:
                self.elements[name] = self.labels.fresh(count).reshape(shape)
        return self.elements[name]


def transposition(node: fx.Node, ndim: int) -> list[int]:
    """Return which axis of its input each axis of a transposed tensor is.

    Found by transposing a tensor without data whose axes all differ in length.
    """
    probe = torch.empty(list(range(1, ndim + 1)), device="meta")
    turned = node.target(probe, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    return [size - 1 for size in turned.shape]


def arguments(node: fx.Node) -> dict[str, Any]:
    """Return the arguments of an ATen call by name, defaults filled in."""
    found = dict(node.kwargs)
    for index, given in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if index < len(node.args):
            found[given.name] = node.args[index]
        elif given.name not in found:
            found[given.name] = given.default_value
    return found


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Change one argument of an ATen call."""
    names = [given.name for given in node.target._schema.arguments]  # type: ignore[union-attr]
    index = names.index(name)
    if index < len(node.args):
        node.update_arg(index, value)
    else:
        node.update_kwarg(name, value)


def source_line(node: fx.Node) -> str | None:
    """Return the innermost line of the model's own code that made a node, if it is known."""
    frames = list(_FRAME.finditer(str(node.meta.get("stack_trace") or "")))
    own = [f for f in frames if "/torch/" not in f["file"].replace("\\", "/")]
    if not own:
        return None
    return f"{own[-1]['file']}:{own[-1]['line']}: {own[-1]['code'].strip()}"
