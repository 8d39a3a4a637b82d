"""Distilling images from a small network."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from networks import ResNet, build, samples, trace
from torch import Tensor, nn

from edgekd.recipe import Synthesis
from edgekd.synthesis.distill import Distilled, batch_sizes, distill_images
from edgekd.synthesis.generator import LATENT, Generator

OPTIONS = Synthesis(images=48, batch_size=24, steps=60)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A network whose batch norms have the statistics of inputs of mean 0.5, deviation 0.25."""
    net = build(ResNet)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    net.train()
    with torch.no_grad():
        net(photographs())
    return net.eval()


def photographs() -> Tensor:
    """Smooth pictures, as photographs are, of mean 0.5 and deviation 0.25 in every channel."""
    smooth = nn.functional.interpolate(samples(64, 3, 4, 4), size=(16, 16), mode="bilinear")
    centred = smooth - smooth.mean((0, 2, 3), keepdim=True)
    return 0.5 + 0.25 * centred / centred.std((0, 2, 3), keepdim=True)


def run(net: nn.Module, seed: int = 0, options: Synthesis = OPTIONS) -> Distilled:
    graph, _ = trace(net, samples(2, 3, 16, 16))
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    steps: list[int] = []
    found = distill_images(graph, (3, 16, 16), options, seed, steps.append)
    assert sum(steps) == options.steps * len(batch_sizes(options.images, options.batch_size))
    after = graph.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(p.grad is None for p in graph.parameters())
    return found


@pytest.fixture(scope="module")
def distilled(net: nn.Module) -> Distilled:
    return run(net)


def test_the_loss_falls_and_the_network_stays_as_it_was(distilled: Distilled) -> None:
    first, last = distilled.losses
    assert last < first / 5
    assert distilled.images.shape == (48, 3, 16, 16)
    assert distilled.images.dtype == torch.float32
    assert bool(distilled.images.isfinite().all())


def test_images_take_the_scale_that_the_network_was_trained_on(distilled: Distilled) -> None:
    """The generator starts at mean 0 and deviation 1; this network takes 0.5 and 0.25."""
    mean, std = distilled.images.mean((0, 2, 3)), distilled.images.std((0, 2, 3))
    assert bool((mean - 0.5).abs().max() < 0.3)
    assert bool((std < 0.9).all())


def test_the_seed_decides_the_images_and_leaves_the_global_source(net: nn.Module) -> None:
    short = Synthesis(images=16, batch_size=16, steps=2)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = run(net, 1, short).images
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(run(net, 1, short).images, first)
    assert not torch.equal(run(net, 2, short).images, first)


@given(images=st.integers(2, 2000), batch_size=st.integers(2, 300))
def test_batches_hold_all_images_in_equal_parts(images: int, batch_size: int) -> None:
    sizes = batch_sizes(images, batch_size)
    assert sum(sizes) == images
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 7, 30), (3, 1, 1), (4, 5, 3)])
def test_the_generator_makes_standardised_images_of_any_shape(shape: tuple[int, int, int]) -> None:
    images, standard = Generator(*shape)(samples(8, LATENT))
    assert images.shape == standard.shape == (8, *shape)
    torch.testing.assert_close(standard.mean((0, 2, 3)), torch.zeros(shape[0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        standard.std((0, 2, 3), correction=0), torch.ones(shape[0]), atol=2e-2, rtol=0
    )
