"""The demo's model and data: a small residual network on scikit-learn's handwritten digits.

The data is real and comes with scikit-learn, so the demo needs no download.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgekd.errors import DataError
from edgekd.model.save import save_model
from edgekd.progress import Progress

EPOCHS = 8
BATCH_SIZE = 64
N_VALIDATION = 360  # of 1797 images

Arrays = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Demo:
    """What the demo wrote, and the network's top-1 accuracy on validation images (0..1)."""

    model: Path
    data: Path
    accuracy: float


class DigitNet(nn.Module):
    """Three convolutions with BatchNorm, one of them in a residual block; 8x8 grey images."""

    def __init__(self, channels: int = 48, n_classes: int = 10) -> None:
        super().__init__()
        self.stem = _conv_bn(1, channels)
        self.first = _conv_bn(channels, channels)
        self.second = _conv_bn(channels, channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, 10)`` for float images ``(N, 1, 8, 8)`` with pixels 0..1."""
        x = F.relu(self.stem(images))
        x = F.relu(x + self.second(F.relu(self.first(x))))
        logits: Tensor = self.classifier(torch.flatten(self.pool(x), 1))
        return logits


def make_demo(folder: Path, progress: Progress, seed: int = 0) -> Demo:
    """Train the network, and write ``model.pt`` and ``data.npz`` into ``folder``.

    Takes some seconds on two cores; the same seed gives the same files on the same machine.
    Raises DataError when the folder cannot be written.
    """
    arrays = load_digits(seed)
    net = train(arrays, progress, seed, EPOCHS)
    model, data = folder / "model.pt", folder / "data.npz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(data, **arrays)  # type: ignore[arg-type]  # its stub names allow_pickle
    except OSError as error:
        raise DataError(f"{folder} cannot be written: {error.strerror}") from error
    save_model(net, _pixels(arrays["x_train"][:2]), model)
    return Demo(model, data, accuracy(net, arrays["x_val"], arrays["y_val"]))


def load_digits(seed: int) -> Arrays:
    """Return uint8 images ``(N, 8, 8)`` and int64 labels, split with ``seed``."""
    from sklearn import datasets

    digits = datasets.load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)  # scikit-learn has 0..16
    order = np.random.default_rng(seed).permutation(len(images))
    train_at, val_at = order[N_VALIDATION:], order[:N_VALIDATION]
    labels = digits.target.astype(np.int64)
    return {
        "x_train": images[train_at],
        "y_train": labels[train_at],
        "x_val": images[val_at],
        "y_val": labels[val_at],
    }


def train(arrays: Arrays, progress: Progress, seed: int, epochs: int) -> DigitNet:
    """Return a network trained on ``x_train``.

    The caller's random state and threads are left alone. One thread: for a network this small
    more cost more than they bring, and the result does not depend on the number of cores.
    """
    images, labels = _pixels(arrays["x_train"]), torch.from_numpy(arrays["y_train"])
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        net = DigitNet().train()
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        with progress.task("train the demo network", epochs) as advance:
            for _ in range(epochs):
                for chosen in torch.split(torch.randperm(len(images)), BATCH_SIZE):
                    optimizer.zero_grad()
                    F.cross_entropy(net(images[chosen]), labels[chosen]).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                advance(1)
    return net.eval()


@torch.no_grad()
def accuracy(
    net: nn.Module, images: npt.NDArray[np.generic], labels: npt.NDArray[np.generic]
) -> float:
    """Return top-1 accuracy (0..1) on uint8 images."""
    predicted = net(_pixels(images)).argmax(1)
    return float((predicted == torch.from_numpy(labels)).float().mean())


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _pixels(images: npt.NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(images)[:, None].float() / 255


def _conv_bn(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
    )
