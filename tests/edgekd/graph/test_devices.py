"""Torch's meta device stands in for a GPU: what is left on the CPU fails there too."""

import torch
from networks import build, samples, trace
from torch import Tensor, nn

from edgekd.graph.devices import move

META, CPU = torch.device("meta"), torch.device("cpu")


class MakesTensors(nn.Module):
    """Creates a tensor in forward, and holds one that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.offset = torch.tensor([1.0, 2, 3, 4])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + torch.arange(4, device=x.device) + self.offset


def test_every_tensor_follows_the_program() -> None:
    module, _ = trace(build(MakesTensors), samples(2, 4))
    move(module, META)
    assert module(torch.empty(3, 4, device="meta")).device == META
    assert {parameter.device for parameter in module.parameters()} == {META}


def test_moving_to_where_it_is_changes_nothing() -> None:
    module, _ = trace(build(MakesTensors), x := samples(2, 4))
    before, parameters = module(x), dict(module.named_parameters())
    move(module, CPU)
    assert torch.equal(module(x), before)
    assert all(parameters[name] is p for name, p in module.named_parameters())
