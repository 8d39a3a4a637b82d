import pytest
import torch
from networks import build, samples, trace
from torch import fx, nn

from edgekd.sparse.gradual import GradualMasks
from edgekd.sparse.masking import stored
from edgekd.sparse.patterns import Masks, Unstructured

NAMES = ["0.weight", "2.weight"]


def start(ramp_steps: int) -> tuple[fx.GraphModule, GradualMasks]:
    net = build(lambda: nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 10)))
    graph, _ = trace(net, samples(2, 10))
    masks: Masks = {
        name: torch.ones_like(w, dtype=torch.bool) for name, w in stored(graph, NAMES).items()
    }
    hook = GradualMasks(graph, masks, Unstructured(0.75), ramp_steps, device=torch.device("cpu"))
    return graph, hook


def jolt(graph: fx.GraphModule, seed: int) -> None:
    """Change all weights, as an optimiser does."""
    with torch.no_grad():
        for weight in stored(graph, NAMES).values():
            weight.add_(0.1 * samples(*weight.shape, seed=seed))


def zeros(graph: fx.GraphModule) -> int:
    return sum(int((weight == 0).sum()) for weight in stored(graph, NAMES).values())


@pytest.mark.parametrize("ramp_steps", [1, 7, 50])
def test_zeros_rise_to_the_exact_plan_and_stay_where_they_are(ramp_steps: int) -> None:
    graph, hook = start(ramp_steps)
    counts = []
    for step in range(1, ramp_steps + 1):
        jolt(graph, step)
        gone = {name: weight == 0 for name, weight in stored(graph, NAMES).items()}
        before = {name: ~mask for name, mask in hook.masks.items()}
        hook(step)
        counts.append(zeros(graph))
        for name, weight in stored(graph, NAMES).items():
            assert (weight[before[name]] == 0).all() and not gone[name][before[name]].any()
    assert counts == sorted(counts) and counts[-1] == 300
    frozen = {name: mask.clone() for name, mask in hook.masks.items()}

    jolt(graph, 99)
    hook(ramp_steps + 1)

    assert all(torch.equal(hook.masks[name], frozen[name]) for name in NAMES)
    assert zeros(graph) == 300


def test_half_way_most_zeros_are_there() -> None:
    graph, hook = start(40)
    for step in range(1, 21):
        hook(step)
    assert zeros(graph) == round(400 * (0.75 - 0.75 / 8))


def test_a_training_that_goes_on_in_another_process_ends_the_same() -> None:
    graph, hook = start(10)
    other, late = start(10)
    for step in range(1, 13):
        jolt(graph, step)
        hook(step)
        if step == 6:  # what a checkpoint holds
            other.load_state_dict(graph.state_dict())
            for name, mask in hook.masks.items():
                late.masks[name].copy_(mask)
        if step > 6:
            jolt(other, step)
            late(step)
    assert all(torch.equal(late.masks[name], hook.masks[name]) for name in NAMES)
    assert torch.equal(*(stored(module, NAMES)["0.weight"] for module in (graph, other)))


def test_masks_without_a_ramp_are_only_held() -> None:
    graph, hook = start(0)
    hook.masks["0.weight"][:, :3] = False
    jolt(graph, 1)
    hook(1)
    assert (stored(graph, NAMES)["0.weight"][:, :3] == 0).all() and zeros(graph) == 60
