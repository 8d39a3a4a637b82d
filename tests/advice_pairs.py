"""Tiny teachers and students for distill-advice, and the files that the command reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from networks import IMAGE, conv_bn
from torch import Tensor, nn

from edgekd.advice.features import Feature, Match
from edgekd.advice.pair import AdviceRequest
from edgekd.model.save import save_model

CLASSES = 3


MAP, SMALL = ("map", (8, 8, 8)), ("map", (4, 4, 4))
TOKENS, VECTOR = ("tokens", (16, 8)), ("vector", (8,))


def match(own: Any, other: Any, similarity: float = 0.5, chance: float | None = 0.1) -> Match:
    """Return two features, each a kind and a shape, as a match."""
    student, teacher = (Feature("n", "n", 1.0, *side) for side in (own, other))
    return Match(student, teacher, similarity, chance, teacher, similarity)


class Cnn(nn.Module):
    """Two blocks of maps of 8x8 and one of 4x4."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.a = conv_bn(3, width), conv_bn(width, width)
        self.b, self.head = conv_bn(width, 2 * width, stride=2), nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.b(x)).mean((2, 3)))


class Patches(nn.Module):
    """Tokens of 2x2 pixels, two perceptrons around shortcuts."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, 2)
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + torch.relu(self.one(x))
        x = x + torch.relu(self.two(x))
        return self.head(x.mean(1))


SOURCE = """
from torch import nn

def student():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))

def four_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))

def other_images():
    return nn.Sequential(nn.Flatten(), nn.Linear(100, 3))

def no_module():
    return 3
"""


def write_pair(
    folder: Path, teacher: nn.Module, student: nn.Module | str, **arrays: np.ndarray | None
) -> AdviceRequest:
    """Write ``teacher.pt2``, ``student.pt2`` or ``student.py``, and ``data.npz``.

    A ``student`` of text names a function of ``student.py``. ``arrays`` replace those of the data;
    None leaves one out.
    """
    generator = np.random.default_rng(0)
    x = generator.normal(size=(120, *IMAGE)).astype(np.float32)
    stored = {"x": x, "y": generator.integers(0, CLASSES, len(x))} | arrays
    np.savez(folder / "data.npz", **{key: a for key, a in stored.items() if a is not None})
    save_model(teacher.eval(), torch.from_numpy(x[:2]), folder / "teacher.pt2")
    if isinstance(student, str):
        (folder / "student.py").write_text(SOURCE)
        text = f"{folder / 'student.py'}:{student}"
    else:
        save_model(student.eval(), torch.from_numpy(x[:2]), folder / "student.pt2")
        text = str(folder / "student.pt2")
    return AdviceRequest(folder / "teacher.pt2", text, str(folder / "data.npz"))
