"""One file per compression stage, and the one place that knows them all.

A stage is a promise that the pipeline checks: ``requires`` refuses before any work starts,
``run`` returns a new state, and the pipeline verifies that the result still has the model's
inputs and outputs.
"""

from __future__ import annotations

from typing import assert_never

from edgekd.device import DeviceProfile
from edgekd.progress import Progress
from edgekd.recipe import EarlyExitStage, PruneStage, QuantizeStage, SparsifyStage, Stage
from edgekd.stages import distill, early_exit, prune, quantize, sparsify
from edgekd.state import CompressionState
from edgekd.training_settings import DistillStage


def requires(state: CompressionState, stage: Stage) -> None:
    """Raise StageError if ``stage`` cannot run on this model and data."""
    match stage:
        case QuantizeStage():
            quantize.requires(state, stage)
        case SparsifyStage():
            sparsify.requires(state, stage)
        case PruneStage():
            prune.requires(state, stage)
        case EarlyExitStage():
            early_exit.requires(state, stage)
        case DistillStage():
            distill.requires(state, stage)
        case _:
            assert_never(stage)


def run(state: CompressionState, stage: Stage, progress: Progress) -> CompressionState:
    """Run one stage and return the new state."""
    match stage:
        case QuantizeStage():
            return quantize.run(state, stage, progress)
        case SparsifyStage():
            return sparsify.run(state, stage, progress)
        case PruneStage():
            return prune.run(state, stage, progress)
        case EarlyExitStage():
            return early_exit.run(state, stage, progress)
        case DistillStage():
            return distill.run(state, stage, progress)
        case _:
            assert_never(stage)


def describe(stage: Stage, profile: DeviceProfile) -> str:
    """Say in one line what a stage will do for this target."""
    match stage:
        case QuantizeStage():
            return quantize.describe(stage)
        case SparsifyStage():
            return sparsify.describe(stage, profile)
        case PruneStage():
            return prune.describe(stage, profile)
        case EarlyExitStage():
            return early_exit.describe(stage)
        case DistillStage():
            return distill.describe(stage)
        case _:
            assert_never(stage)


def uses_budget(stage: Stage) -> bool:
    """Tell whether what a stage does depends on the accuracy budget.

    Such a stage reports under ``budget`` in its details whether it had to act on it.
    """
    match stage:
        case QuantizeStage():
            return True
        case SparsifyStage() | PruneStage() | EarlyExitStage() | DistillStage():
            return False
        case _:
            assert_never(stage)
