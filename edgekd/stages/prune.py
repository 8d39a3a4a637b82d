"""The prune stage: narrower layers and fewer blocks until a budget holds, with training between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from edgekd.algorithms.width_search import TargetError, targets
from edgekd.data.loader import batches
from edgekd.errors import StageError
from edgekd.graph.batchnorm_mode import reestimate_batch_norm
from edgekd.graph.program import clone
from edgekd.graph.taps import Tap, feature_names
from edgekd.progress import Progress
from edgekd.prune.analysis import Analysis, analyse
from edgekd.prune.form import prunable_form
from edgekd.recipe import PruneStage
from edgekd.stages.distillation import check_distillation, distill
from edgekd.stages.prune_budget import Ruler, open_ruler
from edgekd.stages.prune_choice import Choice, choose
from edgekd.state import CompressionState

Inputs = tuple[Tensor, ...]
BUDGETS = ("speedup", "latency_ms", "macs", "parameters")
