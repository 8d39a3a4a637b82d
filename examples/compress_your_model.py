"""Compress a network of your own from Python: python examples/compress_your_model.py [FOLDER]

A small network learns scikit-learn's handwritten digits, is saved, compressed to INT8, and called
as production code would call it. Takes about a minute; needs the extra ``compress``. Replace
``Net``, the training and the data by yours.
"""

# ruff: noqa: T201 - an example prints
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import edgekd
import edgekd.runtime
from edgekd.job import CompressRequest

# The default recipe distils for 6 epochs; this one only calibrates, which takes a second.
RECIPE = """
name: calibrate-only
stages:
  - stage: quantize
    calibration: {samples: 128, method: mse}
    distill: null
"""


class Net(nn.Module):
    """Two convolutions and a classifier; grey images of 8x8 pixels, values 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.classifier = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, 10)`` for images ``(N, 1, 8, 8)``."""
        x = F.max_pool2d(F.relu(self.first(images)), 2)
        x = F.adaptive_avg_pool2d(F.relu(self.second(x)), 1)
        return self.classifier(torch.flatten(x, 1))


def main(folder: Path) -> None:
    """Train, save, compress, and use the result."""
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)  # uint8 (N, 8, 8): grey images
    labels = digits.target.astype(np.int64)
    net = train(images[:1400], labels[:1400])

    # 1. Write the model as a torch.export program, and the data as a .npz file.
    example = torch.zeros(2, 1, 8, 8)  # two rows of the example are stored in the file
    edgekd.save_model(net, example, folder / "digits.pt2")
    np.savez(
        folder / "digits.npz",
        x_train=images[:1400],
        y_train=labels[:1400],
        x_val=images[1400:],
        y_val=labels[1400:],
    )

    # 2. Compress. `edgekd compress digits.pt2 --data digits.npz` does the same.
    (folder / "recipe.yaml").write_text(RECIPE, "utf-8")
    request = CompressRequest(
        model=folder / "digits.pt2",
        data=str(folder / "digits.npz"),
        target="cpu",
        recipe=str(folder / "recipe.yaml"),
        out=folder / "bundle",
        max_drop=2.0,
        cache=folder / "cache",
    )
    result = edgekd.compress(request)
    for stage in result.manifest["stages"]:
        print(f"{stage['name']}: top-1 {stage['accuracy']:.4f}, {stage['model_bytes']} bytes")
    print("checks:", "passed" if result.passed else "; ".join(result.messages))

    # 3. Production: numpy in, numpy out, no torch.
    model = edgekd.runtime.load(result.out)
    logits = model(model.preprocess(images[1400:]))
    print(f"runtime: top-1 {np.mean(logits.argmax(1) == labels[1400:]):.4f}")


def train(images: np.ndarray, labels: np.ndarray) -> Net:
    """Return a network that learned the digits."""
    torch.manual_seed(0)
    net = Net()
    inputs, targets = torch.from_numpy(images)[:, None] / 255, torch.from_numpy(labels)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(20):
        for chosen in torch.randperm(len(inputs)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs[chosen]), targets[chosen]).backward()
            optimizer.step()
    return net


if __name__ == "__main__":
    if len(sys.argv) > 1:
        chosen_folder = Path(sys.argv[1])
        chosen_folder.mkdir(parents=True, exist_ok=True)
        main(chosen_folder)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
