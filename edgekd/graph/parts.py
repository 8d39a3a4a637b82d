"""Stored tensors of a part of a program, by paths or as what lies behind its last block."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import fx

from edgekd.graph.cuts import block_ends
from edgekd.graph.tensors import constant


def stored_tensors(module: fx.GraphModule) -> list[str]:
    """Return the names of all tensors that a program reads, in the order of its nodes."""
    nodes = [n for n in module.graph.nodes if constant(module, n) is not None]
    return list(dict.fromkeys(str(node.target) for node in nodes))


def part_tensors(module: fx.GraphModule, patterns: Sequence[str]) -> frozenset[str]:
    """Return the tensors below the modules that ``patterns`` fit, running statistics too.

    A pattern fits the first names of a tensor's path, one by one between the dots: ``layer4`` and
    ``layer*`` fit ``layer4.0.conv1.weight``, ``layer4.conv1`` does not. Raises ValueError for one
    that fits nothing; its first argument is the pattern, its second what could have been meant.
    """
    names = stored_tensors(module)
    found: set[str] = set()
    for pattern in patterns:
        fitting = [name for name in names if _below(name, pattern)]
        if not fitting:
            raise ValueError(pattern, list(dict.fromkeys(p for n in names for p in _paths(n))))
        found.update(fitting)
    return frozenset(found)


def head_tensors(module: fx.GraphModule) -> frozenset[str]:
    """Return the tensors that are read behind the last block, as ``block_ends`` finds it.

    Raises ValueError, with the reason, where there is no block or nothing is read behind it.
    """
    ends = block_ends(module)
    if not ends:
        raise ValueError("the network cannot be cut into blocks")
    nodes = list(module.graph.nodes)
    behind = nodes[nodes.index(ends[-1]) + 1 :]
    read = [
        operand
        for node in behind
        for operand in node.all_input_nodes
        if constant(module, operand) is not None
    ]
    if not read:
        raise ValueError("nothing behind its last block has weights")
    return frozenset(str(operand.target) for operand in read)


def _paths(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _below(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(wanted) <= len(parts) and all(map(fnmatchcase, parts, wanted))
