"""Every measure ranks a dead channel last; Taylor's says what removing a unit costs."""

from __future__ import annotations

from functools import cache, partial
from typing import Any, get_args

import pytest
import torch
from networks import build, conv_bn, trace
from torch import Tensor, fx, nn

from edgekd.algorithms.kd_loss import kl_loss
from edgekd.algorithms.kd_loss import relative_mse_loss as relative
from edgekd.graph.float_form import float_form
from edgekd.graph.program import clone
from edgekd.prune.analysis import Analysis, analyse
from edgekd.prune.importance import Kind, rank_units

DEAD = 3  # of the channels of a


class Net(nn.Module):
    """Two convolutions and two linear layers in a row; one channel of the first is dead."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(3, 6), nn.Conv2d(6, 8, 3)
        self.hidden, self.head = nn.Linear(8, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.head(torch.relu(self.hidden(x.mean((2, 3)))))


@cache
def program() -> tuple[fx.GraphModule, Analysis]:
    net = build(Net)
    assert isinstance(net, Net)
    with torch.no_grad():
        for tensor in (net.a[0].weight, net.a[1].weight, net.a[1].bias):
            tensor[DEAD] = 0
        net.b.weight[:, DEAD] = 0
    form = float_form(trace(net, inputs()[0][:2])[0], (inputs()[0][:2],))
    return form, analyse(form, (inputs()[0][:2],))


@cache
def inputs() -> list[Tensor]:
    x = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return list(x.split(16))


def rank(
    kind: Any, module: fx.GraphModule | None = None, *, seed: int = 0, classification: bool = True
) -> dict[str, Tensor]:
    form, analysis = program()
    return rank_units(
        form if module is None else module,
        analysis.dependencies,
        kind,
        lambda: [(x,) for x in inputs()],
        classification=classification,
        seed=seed,
    )


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_dead_channel_scores_lowest(kind: str) -> None:
    found = rank(kind)
    assert {name: len(scores) for name, scores in found.items()} == {"a.0": 6, "b": 8, "hidden": 5}
    assert all((scores >= 0).all() and scores.isfinite().all() for scores in found.values())
    assert found["a.0"].argmin() == DEAD and found["a.0"][DEAD] == 0
    if kind != "taylor":
        assert all(scores.mean() == pytest.approx(1, rel=1e-4) for scores in found.values())


def test_weights_alone_need_no_samples() -> None:
    form, analysis = program()

    def samples() -> Any:
        pytest.fail("the samples were read")

    for kind in ("l1", "l2", "bn-scale"):
        rank_units(form, analysis.dependencies, kind, samples, classification=True, seed=0)  # type: ignore[arg-type]


def test_a_group_without_norms_falls_back_to_l2() -> None:
    for name in ("b", "hidden"):
        torch.testing.assert_close(rank("bn-scale")[name], rank("l2")[name])
    assert not torch.allclose(rank("bn-scale")["a.0"], rank("l2")["a.0"])


def scaled(name: str, factor: float) -> fx.GraphModule:
    module = clone(program()[0])
    with torch.no_grad():
        path, _, leaf = name.rpartition(".")
        getattr(module.get_submodule(path), leaf).mul_(factor)
    return module


@pytest.mark.parametrize("kind", ["l1", "l2", "bn-scale"])
def test_the_scale_of_a_whole_weight_does_not_matter(kind: str) -> None:
    for name in ("a.0.weight", "b.weight", "a.1.weight"):
        for group, scores in rank(kind, scaled(name, 37.0)).items():
            torch.testing.assert_close(scores, rank(kind)[group], atol=1e-5, rtol=1e-4)


def test_taylor_knows_that_what_one_layer_gives_another_may_take_back() -> None:
    """Behind a ReLU, twice the values and half the weights compute the same."""
    module = scaled("hidden.weight", 4.0)
    with torch.no_grad():
        module.hidden.bias.mul_(4.0)  # type: ignore[operator,union-attr]
        module.head.weight.div_(4.0)  # type: ignore[operator,union-attr]
    for group, scores in rank("taylor", module).items():
        torch.testing.assert_close(scores, rank("taylor")[group], atol=1e-6, rtol=1e-3)


def gated(weight: str, unit: int, gate: float) -> fx.GraphModule:
    """Return the program, in float64, in which what reads a unit finds it scaled."""
    module = clone(program()[0]).double()
    with torch.no_grad():
        module.get_parameter(weight)[:, unit] *= gate
    return module


READERS = {"a.0": "b.weight", "b": "hidden.weight", "hidden": "head.weight"}


@pytest.mark.parametrize("classification", [True, False])
def test_taylor_agrees_with_the_measured_change_for_small_gates(classification: bool) -> None:
    """Half the mean squared derivative is the curvature: KL(1 - e) is about e^2 / 2 of it.

    The relative squared error has twice that curvature.
    """
    step, draws = 0.05, 60
    scores = {name: torch.zeros(len(found)) for name, found in rank("taylor").items()}
    for seed in range(draws):
        for name, found in rank("taylor", seed=seed, classification=classification).items():
            scores[name] += found / draws
    x = torch.cat(inputs()).double()
    loss, share = (partial(kl_loss, temperature=1.0), 0.5) if classification else (relative, 1.0)
    with torch.no_grad():
        reference = gated("b.weight", 0, 1.0)(x)
        for name, weight in READERS.items():
            for unit, score in enumerate(scores[name].tolist()):
                both = [gated(weight, unit, 1 + e)(x) for e in (step, -step)]
                change = sum(float(loss(y, reference)) for y in both) / 2
                expected = share * step**2 * score
                assert change == pytest.approx(expected, rel=0.35, abs=1e-9), (name, unit)
