"""Distilling images from the statistics that a network's batch norms have stored.

GENIE-D of Jeon et al., "Genie: Show Me the Data for Quantization", CVPR 2023, arXiv 2212.04780:
for every batch of images a new generator and its latent vectors are optimised together, so that
the network's batch norms see what they saw in training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from edgekd.algorithms.statistics_loss import Statistics, batch_norm_loss, image_loss
from edgekd.recipe import Synthesis
from edgekd.synthesis.batchnorm_tap import tap_batch_norms
from edgekd.synthesis.generator import LATENT, Generator
from edgekd.synthesis.swing import swing_convolutions

# The authors' rates. Their 4000 steps end with plateau and staircase decay; the few hundred here
# end with a cosine instead.
LATENT_RATE = 0.1
GENERATOR_RATE = 0.01
# Of the images' shift and scale, which may have to go from 0 to 0.5 in a few dozen steps.
MOMENTS_RATE = 0.03


@dataclass(frozen=True)
class Distilled:
    """``images`` float32 ``(N, C, H, W)`` in the normalised input space.

    ``losses`` holds the loss at the first and after the last step, means over the batches.
    """

    images: Tensor
    losses: tuple[float, float]


def distill_images(
    module: fx.GraphModule,
    shape: tuple[int, int, int],
    options: Synthesis,
    seed: int,
    advance: Callable[[int], None],
) -> Distilled:
    """Make ``options.images`` images of ``shape`` (C, H, W) for the network ``module``.

    ``module`` is a program in inference form with at least one batch norm; it is not changed.
    ``advance`` is called for every step of every batch. The same seed gives the same images on the
    same machine.
    """
    network, stored = tap_batch_norms(module)
    shifts = torch.Generator().manual_seed(seed)
    swing_convolutions(network, shifts)
    batches, losses = [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw their first weights from the global source
        for size in batch_sizes(options.images, options.batch_size):
            images, *loss = _distill_batch(network, stored, size, shape, options.steps, advance)
            batches.append(images)
            losses.append(loss)
    first, last = torch.tensor(losses).mean(0).tolist()
    return Distilled(torch.cat(batches), (first, last))


def batch_sizes(images: int, batch_size: int) -> list[int]:
    """Return the sizes of the batches, as equal as they can be, none above ``batch_size``."""
    count = -(-images // batch_size)
    return [images // count + (i < images % count) for i in range(count)]


def _distill_batch(
    network: fx.GraphModule,
    stored: list[Statistics],
    count: int,
    shape: tuple[int, int, int],
    steps: int,
    advance: Callable[[int], None],
) -> tuple[Tensor, float, float]:
    """Return one batch of images, its loss at first and its loss in the end."""
    generator = Generator(*shape)
    latents = torch.randn(count, LATENT, requires_grad=True)
    optimizer = torch.optim.Adam(
        [
            {"params": [latents], "lr": LATENT_RATE},
            {"params": generator.layers(), "lr": GENERATOR_RATE},
            {"params": [generator.shift, generator.scale], "lr": MOMENTS_RATE},
        ]
    )
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for _ in range(steps):
        images, standard = generator(latents)
        loss = batch_norm_loss(list(network(images)), stored) + image_loss(standard)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        decay.step()
        losses.append(float(loss.detach()))
        advance(1)
    with torch.no_grad():
        images, _ = generator(latents)
    return images, losses[0], losses[-1]
