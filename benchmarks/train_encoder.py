"""Train the text encoder of ``benchmarks/networks`` on Python's standard library.

    python -m benchmarks.train_encoder --data TOKENS.npz --out ENCODER.safetensors [--minutes 9]

The text is the source of the standard library of the interpreter that runs this, so no download is
needed. Two spans of the same file belong together, spans of different files do not: the loss is
InfoNCE over the batch (van den Oord et al., arXiv 1807.03748, eq. 4), both ways, with the
temperature of Gao et al., "SimCSE", EMNLP 2021 (arXiv 2104.08821). The budget is time, so the
weights differ between machines. They are stored in half precision.

TOKENS.npz is what ``edgekd compress --data`` takes: ``ids`` and ``mask``, int64 ``(N, 64)``, for
training and for validation, which come from different files. There are no labels.

Tokens: words are split at case changes, underscores and digits; each piece, lower-cased, is CRC-32
hashed into the vocabulary. Id 0 is padding.
"""

from __future__ import annotations

import argparse
import re
import sysconfig
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.networks.encoder import TOKENS, VOCABULARY, TextEncoder, encoder

PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d|[^\w\s]")
SHORTEST = 12
TEMPERATURE = 0.05
PAIRS = 64
SAMPLES = {"train": 3000, "val": 500}
Arrays = tuple[np.ndarray, np.ndarray]


def main() -> None:
    """Write the tokens, train until the time is up, and save."""
    options = _options()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    draw = np.random.default_rng(0)
    files = _files()
    files = [files[i] for i in draw.permutation(len(files))]
    held_out, training = files[: len(files) // 8], files[len(files) // 8 :]
    validation = _spans(held_out, SAMPLES["val"], draw)
    train = _spans(training, SAMPLES["train"], draw)
    arrays = {
        f"x_{split}.{name}": array
        for split, both in (("train", train), ("val", validation))
        for name, array in zip(("ids", "mask"), both, strict=True)
    }
    np.savez_compressed(options.data, **arrays)  # type: ignore[arg-type]
    print(f"{len(files)} files, {sum(map(len, files))} tokens", flush=True)
    model = encoder()
    assert isinstance(model, TextEncoder)
    _train(model, training, draw, options)
    print(f"of {PAIRS} held-out spans, found by their twin: {_found(model, held_out, draw):.3f}")
    save_file({name: t.half() for name, t in model.state_dict().items()}, options.out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the .npz of tokens to write")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    return parser.parse_args()


def _files() -> list[np.ndarray]:
    """Return the tokens of every file of the standard library that is long enough for two spans."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(p for p in root.rglob("*.py") if "site-packages" not in p.parts)
    found = [tokens(path.read_text(encoding="utf-8", errors="ignore")) for path in paths]
    return [ids for ids in found if len(ids) >= 2 * TOKENS]


def tokens(text: str) -> np.ndarray:
    """Return the ids of ``text``, from 1 to VOCABULARY - 1."""
    pieces = PIECE.findall(text)
    return np.array([1 + zlib.crc32(p.lower().encode()) % (VOCABULARY - 1) for p in pieces])


def _spans(files: list[np.ndarray], count: int, draw: np.random.Generator) -> Arrays:
    """Return (ids, mask) of spans of SHORTEST to TOKENS tokens, from one file after the other."""
    ids, mask = (np.zeros((count, TOKENS), np.int64) for _ in range(2))
    for row in range(count):
        file = files[row % len(files)]
        length = int(draw.integers(SHORTEST, TOKENS + 1))
        start = int(draw.integers(0, len(file) - length + 1))
        ids[row, :length] = file[start : start + length]
        mask[row, :length] = 1
    return ids, mask


def _twins(files: list[np.ndarray], draw: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return (ids, mask) of PAIRS spans, and behind them another span of each one's file."""
    chosen = [files[i] for i in draw.choice(len(files), PAIRS, replace=False)]
    ids, mask = _spans(chosen, 2 * PAIRS, draw)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def _train(
    model: TextEncoder,
    files: list[np.ndarray],
    draw: np.random.Generator,
    options: argparse.Namespace,
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=0.01)
    labels = torch.arange(PAIRS)
    started, step, share = time.monotonic(), 0, 0.0
    while share < 1.0:
        for group in optimizer.param_groups:  # a tenth of the time up, the rest down
            group["lr"] = options.learning_rate * min(share / 0.1 + 0.02, (1.0 - share) / 0.9)
        ids, mask = _twins(files, draw)
        with torch.autocast("cpu", torch.bfloat16):
            embedded = model(ids, mask)
        left, right = embedded.float().chunk(2)
        scores = left @ right.T / TEMPERATURE
        loss = cross_entropy(scores, labels) + cross_entropy(scores.T, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        minutes = (time.monotonic() - started) / 60
        share = minutes / options.minutes
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item() / 2:.3f} after {minutes:.1f} min", flush=True)


@torch.no_grad()
def _found(model: TextEncoder, files: list[np.ndarray], draw: np.random.Generator) -> float:
    """Return the share of held-out spans whose nearest neighbour is the span of the same file."""
    left, right = model.eval()(*_twins(files, draw)).chunk(2)
    return float(((left @ right.T).argmax(1) == torch.arange(PAIRS)).double().mean())


if __name__ == "__main__":
    main()
