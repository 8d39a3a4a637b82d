"""A job with early exits that runs in seconds: images whose class is their brightest channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from networks import conv_bn
from torch import Tensor, nn

from edgekd.model.save import save_model

SIZE = (3, 8, 8)
TRAINING = {"max_steps": 20, "batch_size": 32, "augment": "none", "learning_rate": 0.02}
RECIPE: dict[str, Any] = {
    "name": "exits",
    "stages": [
        {
            "stage": "early_exit",
            "at": ["blocks.0", "blocks.1"],
            "head": "linear",
            "joint": {**TRAINING, "epochs": 1},
            "heads": {**TRAINING, "epochs": 2, "feature_weight": 0},
            "operating_points": [
                {"name": "default", "max_drop": 40.0},
                {"name": "strict", "max_drop": 0.1},
            ],
        },
        {"stage": "quantize", "calibration": {"method": "minmax"}, "distill": None},
    ],
}


class Block(nn.Module):
    """A residual block of one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.body = conv_bn(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


class Net(nn.Module):
    """Three residual blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def samples(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return float32 ``(count, 3, 8, 8)`` and their classes; some samples are hard to tell."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    x = rng.normal(size=(count, *SIZE)).astype(np.float32)
    x[np.arange(count), labels] += rng.choice([0.15, 0.6], count)[:, None, None]
    return x, labels


def write_job(folder: Path) -> None:
    """Write ``model.pt2``, ``data.npz``, ``more.npz`` and ``recipe.yaml`` into the folder."""
    x, y = samples(240, 0)
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        loss = nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(net.eval(), torch.from_numpy(x[:2]), folder / "model.pt2")
    held, labels = samples(160, 1)
    np.savez(folder / "data.npz", x_train=x, y_train=y, x_val=held, y_val=labels)
    more, labels = samples(200, 2)
    np.savez(folder / "more.npz", x=more, y=labels)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
