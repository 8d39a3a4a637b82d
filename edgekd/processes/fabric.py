"""Lightning Fabric as it carries a training here: in one process, or in all that torchrun started.

Fabric connects the processes, wraps what is trained in DistributedDataParallel, and scales losses
for gradients in float16. It comes with the ``compress`` extra and is imported when a training
starts.
"""

from __future__ import annotations

import contextlib
import logging
import os
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from edgekd.processes.group import count

# The first process may measure or export for long while the others wait.
PATIENCE = timedelta(days=1)
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


class _AsItIs(Precision):
    """Numbers stay as they are: losses say themselves where layers compute in 16 bits."""

    def convert_input(self, data: Any) -> Any:
        return data

    def convert_output(self, data: Any) -> Any:
        return data


class _Scaled(MixedPrecision):
    """The same, with a scaler for gradients in float16."""

    def forward_context(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def convert_input(self, data: Any) -> Any:
        return data

    def convert_output(self, data: Any) -> Any:
        return data


def open_fabric(device: str | torch.device, scaler: torch.amp.GradScaler | None = None) -> Fabric:
    """Return what runs a training on ``device``, connected with the other processes.

    With several processes on GPUs, gradients go over NCCL and everything else over gloo, which does
    not keep a GPU busy while it waits.
    """
    device = torch.device(device)
    precision: Precision = _AsItIs()
    if scaler is not None and scaler.is_enabled():
        precision = _Scaled("16-mixed", device.type, scaler)
    if count() == 1:
        # Nothing is to be guessed from a cluster's environment.
        return Fabric(
            accelerator=device.type,
            devices=1 if device.index is None else [device.index],
            plugins=[precision, LightningEnvironment()],
        )
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    strategy = DDPStrategy(
        process_group_backend="cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
        timeout=PATIENCE,
        # A loss may leave out weights in some steps: heads, projectors.
        find_unused_parameters=True,
    )
    fabric = Fabric(
        accelerator=device.type,
        devices=local,
        num_nodes=count() // local,
        strategy=strategy,
        plugins=[precision],
    )
    fabric.launch()
    return fabric
