"""What somebody who builds an engine wants otherwise than the bundle's plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekd.building.plan import batch_shapes
from edgekd.engine.plan import BuildPlan
from edgekd.errors import BundleError
from edgekd.spec import ModelSpec


@dataclass(frozen=True)
class Wishes:
    """What of a bundle's plan is to be different; None leaves it as it is.

    ``max_batch`` and ``opt_batch`` are for inputs whose batch is open. ``compute_capabilities`` are
    for TensorRT-RTX without a GPU.
    """

    max_batch: int | None = None
    opt_batch: int | None = None
    dla_core: int | None = None
    version_compatible: bool = False
    hardware_compatible: str | None = None
    workspace_bytes: int | None = None
    compute_capabilities: Sequence[str] = ()

    def apply(self, plan: BuildPlan, spec: ModelSpec) -> BuildPlan:
        """Return the plan with the wishes in it; raises BundleError for batches that cannot be."""
        wanted: dict[str, Any] = {
            "dla_core": self.dla_core,
            "hardware_compatible": self.hardware_compatible,
            "workspace_bytes": self.workspace_bytes,
            "version_compatible": self.version_compatible or None,
            "compute_capabilities": tuple(self.compute_capabilities) or None,
        }
        plan = replace(plan, **{name: value for name, value in wanted.items() if value is not None})
        if self.max_batch is None and self.opt_batch is None:
            return plan
        free = [tensor.name for tensor in spec.inputs if tensor.shape[:1] == (None,)]
        if not free:
            raise BundleError("the model's batch is fixed: leave out the sizes of batches")
        old = plan.shapes[free[0]]
        most = self.max_batch or max(old.largest[0], self.opt_batch or 1)
        best = self.opt_batch or min(old.best[0], most)
        if best > most:
            raise BundleError(f"the best batch, {best}, is larger than the largest, {most}")
        shapes = batch_shapes(spec, most)
        for name in free:
            limits = shapes[name]
            shapes[name] = replace(limits, best=(best, *limits.best[1:]))
        return replace(plan, shapes=shapes)
