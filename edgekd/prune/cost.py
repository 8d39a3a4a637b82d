"""What a program costs when only some of its units are kept: time, multiplications, weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, fx

from edgekd.bench.layers import LayerShape
from edgekd.graph.tensors import constant
from edgekd.prune.groups import Dependencies
from edgekd.prune.layer_times import LayerTimes, Source
from edgekd.prune.layers import read_layers, record_shapes
from edgekd.prune.sizes import Sizes, read_products


@dataclass(frozen=True)
class Cost:
    """What one sample costs. ``source`` says where the layers' times come from.

    ``microseconds`` is a prediction in any case: a sum over layers.
    """

    microseconds: float
    macs: int
    parameters: int
    source: Source


class CostModel:
    """The cost of ``module``, in float form, for any number of kept units.

    An assignment maps group name -> kept units; a group that it does not name keeps all.
    ``dropped`` are node names that vanish with bypassed blocks. Time is the sum over weighted
    layers and attention's products of the times of their shapes, as nn-Meter sums kernels (Zhang et
    al., MobiSys 2021), plus a remainder for all other operations in proportion to the numbers that
    they write. ``measured_us``, the whole program's latency, fits the remainder; without it there
    is none. ``example`` are the program's inputs, of which the first sample is run once.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        dependencies: Dependencies,
        example: tuple[Tensor, ...],
        layer_times: LayerTimes,
        *,
        measured_us: float | None = None,
    ) -> None:
        groups = dependencies.groups
        shapes = record_shapes(module, example)
        weighted = read_layers(module, groups, shapes)
        sizes = Sizes(module, weighted, shapes)
        self.layers = [*weighted, *read_products(module, groups, sizes, shapes)]
        self.units = {group.name: group.size for group in groups}
        self.scale = 1.0
        self._layer_times = layer_times
        self._known: dict[LayerShape, float] = {}
        self._layer_cache: list[dict[tuple[int, ...], LayerShape]] = [{} for _ in self.layers]
        self._tensors = _read_tensors(module, dependencies)
        self._others = [
            (name, sizes.elements[name], sizes.per_unit[name])
            for name in sizes.others(module, self.layers)
        ]
        self._linear: dict[frozenset[str], tuple[float, dict[str, float]]] = {}
        self._rate = 0.0
        if measured_us is not None:
            self.fit(measured_us)

    @property
    def source(self) -> Source:
        """Say whether the layers' times were measured on the target."""
        return self._layer_times.source

    def cost(self, kept: Mapping[str, int], dropped: frozenset[str] = frozenset()) -> Cost:
        """Return all costs of an assignment."""
        return Cost(
            self.microseconds(kept, dropped),
            self.macs(kept, dropped),
            self.parameters(kept, dropped),
            self.source,
        )

    def microseconds(self, kept: Mapping[str, int], dropped: frozenset[str] = frozenset()) -> float:
        """Return the predicted latency of one sample. Raises what the layers' times raise."""
        shapes = self._shapes(kept, dropped)
        if missing := set(shapes).difference(self._known):
            self._known.update(self._layer_times.times(sorted(missing)))
        layers = sum(self._known[shape] for shape in shapes)
        return (layers + self._rate * self._elements(kept, dropped)) * self.scale

    def macs(self, kept: Mapping[str, int], dropped: frozenset[str] = frozenset()) -> int:
        """Return the multiplications of one sample in layers and attention's products."""
        return sum(shape.macs for shape in self._shapes(kept, dropped))

    def parameters(self, kept: Mapping[str, int], dropped: frozenset[str] = frozenset()) -> int:
        """Return the stored parameters that are left; those of dropped nodes are not counted."""
        return sum(
            tensor.count(self.units, kept)
            for tensor in self._tensors
            if not tensor.readers <= dropped
        )

    def shapes(self, options: Mapping[str, Iterable[int]]) -> set[LayerShape]:
        """Return every layer shape that can come up when each group keeps one of its options.

        A group that is not named keeps all. Hand this to the layer table in one go: timing shapes
        one by one, as the search meets them, takes a process each.
        """
        removed = {name: {self.units[name] - k for k in kept} for name, kept in options.items()}
        found: set[LayerShape] = set()
        for layer in self.layers:
            lost = {(0.0, 0.0, 0.0)}
            for name, unit in layer.units.items():
                lost = {
                    (o + unit.outputs * n, i + unit.inputs * n, g + unit.groups * n)
                    for o, i, g in lost
                    for n in removed.get(name, {0})
                }
            found |= {layer.shrunk(*sizes) for sizes in lost}
        return found

    def calibrate(
        self, measured_us: float, kept: Mapping[str, int], dropped: frozenset[str] = frozenset()
    ) -> float:
        """Scale all later predictions so that this one is as measured; return the factor."""
        factor = measured_us / self.microseconds(kept, dropped)
        self.scale *= factor
        return factor

    def fit(self, measured_us: float) -> None:
        """Give the other operations what the layers leave of the whole program's latency."""
        left = measured_us - self.microseconds({})
        elements = self._elements({}, frozenset())
        if left > 0 and elements:
            self._rate = left / elements
        else:  # the layers together are faster than one by one
            self.calibrate(measured_us, {})

    def _shapes(self, kept: Mapping[str, int], dropped: frozenset[str]) -> list[LayerShape]:
        shapes = []
        for layer, cache in zip(self.layers, self._layer_cache, strict=True):
            if layer.node in dropped:
                continue
            key = tuple([self._removed(name, kept) for name in layer.units])
            if key not in cache:
                cache[key] = layer.shape_after(dict(zip(layer.units, key, strict=True)))
            shapes.append(cache[key])
        return shapes

    def _removed(self, name: str, kept: Mapping[str, int]) -> int:
        size = self.units[name]
        return size - kept.get(name, size)

    def _elements(self, kept: Mapping[str, int], dropped: frozenset[str]) -> float:
        """Return the numbers that the other operations write."""
        if dropped not in self._linear:
            total, per_unit = 0.0, dict[str, float]()
            for name, elements, units in self._others:
                if name not in dropped:
                    total += elements
                    for group, count in units.items():
                        per_unit[group] = per_unit.get(group, 0.0) + count
            self._linear[dropped] = total, per_unit
        total, per_unit = self._linear[dropped]
        return total - sum(count * self._removed(name, kept) for name, count in per_unit.items())


@dataclass(frozen=True)
class _StoredTensor:
    shape: tuple[int, ...]
    readers: frozenset[str]
    lost: Sequence[tuple[str, int, float]]  # group, axis, entries along it for one unit

    def count(self, units: Mapping[str, int], kept: Mapping[str, int]) -> int:
        sizes = [float(size) for size in self.shape]
        for group, axis, each in self.lost:
            sizes[axis] -= each * (units[group] - kept.get(group, units[group]))
        return round(math.prod(sizes))


def _read_tensors(module: fx.GraphModule, dependencies: Dependencies) -> list[_StoredTensor]:
    """Return the parameters that the graph reads, each stored tensor once."""
    trainable = {name for name, _ in module.named_parameters()}
    readers: dict[str, set[str]] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr" and str(node.target) in trainable:
            readers.setdefault(str(node.target), set()).update(user.name for user in node.users)
    found = []
    for name, users in readers.items():
        tensor = next(constant(module, n) for n in module.graph.nodes if n.target == name)
        assert tensor is not None
        lost = {
            (group.name, member.axis): sum(map(len, member.indices)) / max(group.size, 1)
            for group in dependencies.groups
            for member in (*group.produced, *group.consumed)
            if member.tensor == name
        }
        entries = [(group, axis, each) for (group, axis), each in lost.items()]
        found.append(_StoredTensor(tuple(tensor.shape), frozenset(users), entries))
    return found
