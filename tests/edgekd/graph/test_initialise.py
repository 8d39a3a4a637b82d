"""Weights drawn anew are of the distribution that torch's own layers start from."""

import pytest
import torch
from networks import IMAGE, ResNet, build, samples, trace
from torch import Tensor, fx, nn

from edgekd.graph.initialise import initialise, plan
from edgekd.graph.parts import stored_tensors
from edgekd.graph.program import clone

TABLE = torch.arange(6).reshape(2, 3)
LAYERS: list[tuple[nn.Module, Tensor]] = [
    (nn.Linear(12, 64), samples(2, 12)),
    (nn.Conv2d(4, 64, 3), samples(2, 4, 5, 5)),
    (nn.Conv1d(4, 64, 3, groups=2), samples(2, 4, 5)),
    (nn.ConvTranspose2d(16, 64, 3), samples(2, 16, 5, 5)),
    (nn.BatchNorm2d(5), samples(2, 5, 4, 4)),
    (nn.LayerNorm(6), samples(2, 6)),
    (nn.GroupNorm(2, 6), samples(2, 6, 4)),
    (nn.Embedding(8, 40, padding_idx=0), TABLE),
    (nn.PReLU(3), samples(2, 3, 4)),
]


def stored(graph: fx.GraphModule, name: str) -> Tensor:
    return {**dict(graph.named_parameters()), **dict(graph.named_buffers())}[name]


@pytest.mark.parametrize(("layer", "x"), LAYERS, ids=lambda v: type(v).__name__)
def test_every_layer_starts_as_torch_starts_it(layer: nn.Module, x: Tensor) -> None:
    graph, _ = trace(layer.eval(), x)
    with torch.no_grad():
        for tensor in (*graph.parameters(), *graph.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(77.0)
    names = stored_tensors(graph)
    initialise(graph, names, seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer.reset_parameters()  # type: ignore[operator]
    for name in names:
        own, theirs = stored(graph, name).detach(), layer.state_dict()[name]
        # A uniform or normal distribution is known by its deviation, and a constant by itself.
        assert own.std() == pytest.approx(theirs.std().item(), rel=0.35, abs=1e-6)
        assert own.mean() == pytest.approx(theirs.mean().item(), abs=0.2)
        if not isinstance(layer, nn.Embedding):
            assert own.abs().max() <= 1.15 * theirs.abs().max()
    if isinstance(layer, nn.Embedding):
        assert stored(graph, names[0])[0].abs().max() == 0


def test_only_what_is_named_changes_and_the_seed_decides_it() -> None:
    graph, _ = trace(build(ResNet), samples(2, *IMAGE))
    one, two, other = (clone(graph) for _ in range(3))
    names = [name for name in stored_tensors(graph) if name.startswith("blocks.0")]
    for copy, seed in ((one, 0), (two, 0), (other, 1)):
        initialise(copy, names, seed)
    for name in stored_tensors(graph):
        assert torch.equal(stored(one, name), stored(two, name))
        assert torch.equal(stored(one, name), stored(graph, name)) == (name not in names)
    weight = next(name for name in names if name.endswith("weight"))
    assert not torch.equal(stored(one, weight), stored(other, weight))


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place, self.head = nn.Parameter(torch.zeros(1, 4)), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.place)


def test_what_is_not_known_is_refused_and_nothing_changes() -> None:
    graph, _ = trace(Positions().eval(), samples(2, 4))
    before = stored(graph, "head.weight").clone()
    with pytest.raises(ValueError, match=r"'place' cannot be initialised anew: .*aten.add"):
        initialise(graph, stored_tensors(graph), seed=0)
    assert torch.equal(stored(graph, "head.weight"), before)
    assert set(plan(graph, ["head.weight"])) == {"head.weight"}


def test_projections_of_attention_have_bounds_of_their_own() -> None:
    attention = nn.MultiheadAttention(16, 2, batch_first=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.attention(x, x, x, need_weights=False)[0]
            return out

    graph, _ = trace(Net().train(), samples(2, 5, 16))  # in inference it is one fused operator
    initialise(graph, ["attention.in_proj_weight", "attention.in_proj_bias"], seed=0)
    bound = (6 / (48 + 16)) ** 0.5
    weight = stored(graph, "attention.in_proj_weight")
    assert 0.95 * bound < weight.abs().max() <= bound
    assert stored(graph, "attention.in_proj_bias").abs().max() == 0
