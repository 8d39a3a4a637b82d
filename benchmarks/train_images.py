"""Train the image networks of ``benchmarks/networks`` by distillation, for the other benchmarks.

    python -m benchmarks.train_images NETWORK --teacher CHECKPOINT --teacher-arch FILE.py:factory \\
        --data DATA.npz [--unlabeled DIR] --mean .. --std .. --out NETWORK.safetensors

NETWORK is ``vit`` or ``mobilenet``. The student learns the teacher's class probabilities on the
labelled and the unlabelled images, each cropped and flipped in ``--variants`` fixed ways, so that
the teacher runs once for each. The weights are stored in half precision.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import kl_div, pad

from edgekd.model.load import open_model

TEMPERATURE = 2.0
BATCH = 128


def main() -> None:
    """Train, print the accuracy on the validation images after every epoch, and save."""
    options = _options()
    torch.manual_seed(0)
    images = _images(options)
    with np.load(options.data) as data:
        validation, labels = torch.from_numpy(data["x_val"]), torch.from_numpy(data["y_val"])
    normalise = _Normalise(options.mean, options.std)
    teacher = open_model(options.teacher, arch=options.teacher_arch).module
    assert teacher is not None
    shifts = _shifts(len(images), options.variants)
    targets = _soft_labels(teacher.eval(), images, shifts, normalise, options.soft_labels)
    student = _student(options.network)
    steps = options.epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(student.parameters(), lr=options.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=steps, pct_start=0.1
    )
    started = time.monotonic()
    for epoch in range(options.epochs):
        variant = epoch % options.variants
        _epoch(student, images, shifts[variant], targets[variant], normalise, optimizer, schedule)
        accuracy = _accuracy(student, normalise(validation), labels)
        minutes = (time.monotonic() - started) / 60
        print(f"epoch {epoch + 1}: top-1 {accuracy:.4f} after {minutes:.1f} min", flush=True)
        weights = {name: tensor.half() for name, tensor in student.state_dict().items()}
        save_file(weights, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=("vit", "mobilenet"))
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--teacher-arch", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--unlabeled", type=Path)
    parser.add_argument("--limit", type=int, help="take only so many of the unlabelled images")
    parser.add_argument(
        "--soft-labels", type=Path, help=".npy file to keep the teacher's logits in"
    )
    parser.add_argument("--mean", type=_floats, required=True)
    parser.add_argument("--std", type=_floats, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--variants", type=int, default=3)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def _floats(text: str) -> tuple[float, ...]:
    return tuple(map(float, text.split(",")))


def _images(options: argparse.Namespace) -> Tensor:
    """Return all training images, uint8 ``(N, 3, 32, 32)``."""
    with np.load(options.data) as data:
        found = [data["x_train"]]
    if options.unlabeled is not None:
        paths = sorted(p for p in options.unlabeled.rglob("*") if p.suffix in (".jpg", ".png"))
        paths = [
            paths[i] for i in np.random.default_rng(0).permutation(len(paths))[: options.limit]
        ]
        arrays = [np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in paths]
        found.append(np.stack(arrays))
    return torch.from_numpy(np.concatenate(found))


class _Normalise:
    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self.mean, self.std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (mean, std))

    def __call__(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self.mean) / self.std


def _shifts(count: int, variants: int) -> Tensor:
    """Return (down, right, flip) for every variant of every image."""
    return torch.stack(
        [
            torch.randint(0, 9, (variants, count)),
            torch.randint(0, 9, (variants, count)),
            torch.randint(0, 2, (variants, count)),
        ],
        dim=-1,
    )


def _moved(images: Tensor, shifts: Tensor) -> Tensor:
    """Crop each image out of its four-pixel frame at its shift, and mirror where asked."""
    size = images.shape[-1]
    framed = pad(images, (4, 4, 4, 4))
    rows = (shifts[:, 0, None] + torch.arange(size))[:, None, :, None]
    columns = torch.arange(size).expand(len(images), -1)
    columns = torch.where(shifts[:, 2, None].bool(), columns.flip(1), columns)
    columns = (shifts[:, 1, None] + columns)[:, None, None, :]
    samples = torch.arange(len(images))[:, None, None, None]
    channels = torch.arange(images.shape[1])[None, :, None, None]
    return framed[samples, channels, rows, columns]


@torch.no_grad()
def _soft_labels(
    teacher: nn.Module, images: Tensor, shifts: Tensor, normalise: _Normalise, kept: Path | None
) -> Tensor:
    """Return the teacher's logits ``(variants, N, classes)``, from the file ``kept`` if there.

    The images and their shifts depend on the options alone, so another network can use the file.
    """
    if kept is not None and kept.is_file():
        return torch.from_numpy(np.load(kept))
    rows = []
    for variant in shifts:
        parts = zip(images.split(250), variant.split(250), strict=True)
        rows.append(torch.cat([teacher(normalise(_moved(i, s))) for i, s in parts]))
    if kept is not None:
        np.save(kept, torch.stack(rows).numpy())
    return torch.stack(rows)


def _student(name: str) -> nn.Module:
    if name == "vit":
        from benchmarks.networks.vit import vit

        return vit()
    from benchmarks.networks.mobilenet import mobilenet

    return mobilenet()


def _epoch(
    student: nn.Module,
    images: Tensor,
    shifts: Tensor,
    targets: Tensor,
    normalise: _Normalise,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    student.train()
    order = torch.randperm(len(images))[: len(images) // BATCH * BATCH]
    for index in order.split(BATCH):
        with torch.autocast("cpu", torch.bfloat16):
            logits = student(normalise(_moved(images[index], shifts[index]))).float()
        expected = (targets[index] / TEMPERATURE).log_softmax(1)
        found = (logits / TEMPERATURE).log_softmax(1)
        loss = kl_div(found, expected, log_target=True, reduction="batchmean") * TEMPERATURE**2
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def _accuracy(student: nn.Module, images: Tensor, labels: Tensor) -> float:
    student.eval()
    return float((student(images).argmax(1) == labels).double().mean())


if __name__ == "__main__":
    main()
