"""What tests of several rooms share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from exit_job import write_job
from networks import IMAGE, build, conv_bn
from torch import Tensor, nn

from edgekd.job import CompressRequest
from edgekd.model.save import save_model
from edgekd.pipeline import compress

PRUNE = {
    "stage": "prune",
    "macs": 0.5,
    "multiple": 1,
    "steps": 2,
    "samples": 16,
    "on_unprunable": "skip",
    "distill": {"max_steps": 3, "batch_size": 16, "augment": "none"},
}
QUANTIZE = {"stage": "quantize", "calibration": {"method": "minmax"}, "distill": None}


class Prunable(nn.Module):
    """A residual block, a wide layer, and an operation that no rule follows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv_bn(3, 8), conv_bn(8, 8), conv_bn(8, 8)
        self.wide, self.turned, self.head = conv_bn(8, 32), nn.Linear(32, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        x = torch.relu(self.wide(x)).mean((2, 3))
        return self.head(torch.flip(self.turned(x), [1]))


@pytest.fixture(scope="session")
def pruned_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle behind ``prune`` and ``quantize``; ``model.pt2`` and ``data.npz`` are beside it."""
    folder = tmp_path_factory.mktemp("pruned")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, *IMAGE)).astype(np.float32)
    save_model(build(Prunable), torch.from_numpy(x[:2]), folder / "model.pt2")
    np.savez(folder / "data.npz", x=x, y=generator.integers(0, 3, len(x)))
    recipe = {"name": "pruned", "stages": [PRUNE, QUANTIZE]}
    (folder / "pruned.yaml").write_text(yaml.safe_dump(recipe))
    request = CompressRequest(
        folder / "model.pt2",
        str(folder / "data.npz"),
        target="jetson",  # its latency is not measured
        recipe=str(folder / "pruned.yaml"),
        out=folder / "bundle",
        cache=folder / "cache",
    )
    return compress(request).out


@pytest.fixture(scope="session")
def exit_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle behind ``early_exit`` and ``quantize``, one point promised and one not."""
    folder = tmp_path_factory.mktemp("exits")
    write_job(folder)
    request = CompressRequest(
        folder / "model.pt2",
        str(folder / "data.npz"),
        target="jetson",  # its latency is not measured
        recipe=str(folder / "recipe.yaml"),
        out=folder / "bundle",
        cache=folder / "cache",
    )
    return compress(request).out
