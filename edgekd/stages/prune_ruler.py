"""What a prune stage's budget counts, and how much of it is to be saved."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import fx

from edgekd.bench.layers import LayerShape
from edgekd.bench.machine import runs_here
from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import measure
from edgekd.cache import StepCache, default_cache
from edgekd.errors import StageError
from edgekd.export.deployed import export_for
from edgekd.processes.group import by_first
from edgekd.progress import Progress, Silent
from edgekd.prune.choice import CostOf
from edgekd.prune.cost import CostModel
from edgekd.prune.groups import Dependencies
from edgekd.prune.layer_times import LayerTimes, open_layer_times
from edgekd.recipe import PruneStage
from edgekd.state import CompressionState

Source = Literal["measured", "predicted", "counted"]
COUNTED = ("macs", "parameters")  # budgets that need no time
PROCESSES, ROUNDS = 3, 150  # of a candidate's duet; the pipeline measures the result anew


@dataclass(frozen=True)
class Scale:
    """A program's cost for any choice, and the original's cost on the same scale."""

    cost_of: CostOf
    original: float
    layers_timed: int


@dataclass(frozen=True)
class Ruler:
    """``gain`` is the wanted cost of the original over that of the result, above 1.

    ``source`` says where costs come from: latency measured on this machine or predicted by the
    device's latency model, or counted (multiplications, parameters). ``original_onnx`` is empty
    where nothing is measured.
    """

    state: CompressionState
    options: PruneStage
    gain: float
    source: Source
    original_onnx: bytes
    original_model: CostModel
    times: LayerTimes

    def scale(
        self,
        module: fx.GraphModule,
        dependencies: Dependencies,
        widths: dict[str, list[int]],
    ) -> Scale:
        """Return the scale for choices among ``widths`` of ``module``; may time layers."""
        example = self.state.example
        if self.source != "measured":
            cost_of = _counted(self.options, CostModel(module, dependencies, example, self.times))
            original = _counted(self.options, self.original_model)({}, _NONE)
            return Scale(cost_of, original, 0)
        original_us, current_us = self.latencies(module)
        model = CostModel(module, dependencies, example, self.times)
        shapes = model.shapes(widths)
        self.times.times(shapes)  # in one go, which takes one process
        model.fit(current_us)
        return Scale(model.microseconds, original_us, len(shapes))

    def latencies(self, module: fx.GraphModule) -> tuple[float, float]:
        """Return microseconds of the original and of ``module``, timed against each other.

        The second is the original's divided by the ratio of paired calls.
        """
        state = self.state
        onnx = export_for(state.profile, module, state.example, state.spec).onnx
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder) / f"{name}.onnx" for name in ("original", "candidate")}
            for path, content in zip(paths.values(), (self.original_onnx, onnx), strict=True):
                path.write_bytes(content)
            protocol = Protocol(
                threads=state.profile.threads, processes=PROCESSES, rounds=ROUNDS, seed=state.seed
            )
            report = measure(paths, baseline="original", protocol=protocol)
        original_us = report.models["original"].median_ms * 1e3
        ratio = report.models["candidate"].ratio
        assert ratio is not None
        return original_us, original_us / ratio


_NONE: frozenset[str] = frozenset()


def _counted(options: PruneStage, model: CostModel) -> CostOf:
    match options.budget():
        case {"macs": _}:
            return model.macs
        case {"parameters": _}:
            return model.parameters
    return model.microseconds


def check_times(state: CompressionState, options: PruneStage) -> None:
    """Raise ProfileError where a budget of time can neither be measured nor predicted."""
    if not _is_counted(options):
        _times(state, Silent())


def open_ruler(
    state: CompressionState,
    options: PruneStage,
    original: fx.GraphModule,
    dependencies: Dependencies,
    progress: Progress,
    *,
    gain: float | None = None,
) -> Ruler:
    """Return the ruler of a budget; ``original`` is the teacher in float form.

    ``gain`` is what an earlier run has found, if there was one. Raises StageError where the budget
    is met already.
    """
    here = runs_here(state.profile)
    source: Source = "counted" if _is_counted(options) else "measured" if here else "predicted"
    if source == "predicted":
        progress.note(
            f"prune: {state.profile.name} is not this machine, so that latency is predicted by its "
            "latency model, not measured"
        )
    times = _Untimed() if source == "counted" else _times(state, progress)
    onnx = b""
    if source == "measured":
        onnx = export_for(state.profile, state.teacher, state.example, state.spec).onnx
    model = CostModel(original, dependencies, state.example, times)
    ruler = Ruler(state, options, 1.0, source, onnx, model, times)
    if gain is None:
        gain = by_first(lambda: _wanted_gain(ruler, original))
    return replace(ruler, gain=gain)


def _wanted_gain(ruler: Ruler, original: fx.GraphModule) -> float:
    ((key, value),) = ruler.options.budget().items()
    if key == "speedup":
        return value
    if key in COUNTED:
        return 1 / value
    measured = ruler.source == "measured"
    microseconds = (
        ruler.latencies(original)[0] if measured else ruler.original_model.microseconds({})
    )
    gain = microseconds / 1e3 / value
    if gain <= 1:
        raise StageError(
            f"prune: the original takes {microseconds / 1e3:.3g} ms ({ruler.source}), which is "
            f"within the budget of {value:g} ms; leave the stage out, or ask for less"
        )
    return gain


def _is_counted(options: PruneStage) -> bool:
    return any(key in COUNTED for key in options.budget())


def _times(state: CompressionState, progress: Progress) -> LayerTimes:
    cache = state.cache or StepCache(default_cache())
    return open_layer_times(state.profile, cache.root / "layers", progress)


class _Untimed:
    """Layer times where nobody asks for them."""

    source: Literal["predicted"] = "predicted"

    def times(self, shapes: Iterable[LayerShape]) -> dict[LayerShape, float]:
        """Return 0 for every shape."""
        return dict.fromkeys(shapes, 0.0)
