"""What a prune stage reports of groups that end with a single unit, or with none."""

from __future__ import annotations

from pathlib import Path

import torch
from networks import IMAGE, build, conv_bn
from states import make_state
from torch import Tensor, nn

from edgekd.progress import Silent
from edgekd.recipe import PruneStage
from edgekd.stages import prune


class Net(nn.Module):
    """A residual block whose branch is too small to matter, and a narrow layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv_bn(3, 8), conv_bn(8, 8), conv_bn(8, 8)
        self.narrow, self.head = nn.Linear(8, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.b(torch.relu(self.a(x)))
        return self.head(torch.relu(self.narrow(x.mean((2, 3)))))


def test_units_left_are_those_of_the_weights(tmp_path: Path) -> None:
    net = build(Net)
    with torch.no_grad():
        net.b[1].weight.zero_()
        net.b[1].bias.zero_()
        net.narrow.weight[0].zero_()
        net.narrow.bias[0] = -1.0  # behind the ReLU it is always zero
    options = PruneStage(stage="prune", macs=0.25, multiple=1, steps=2, samples=16, distill=None)
    state = make_state(net, IMAGE, tmp_path)

    after = prune.run(state, options, Silent())

    facts = after.details["prune"]
    left = {group["name"]: group["after"] for group in facts["groups"]}
    weights = dict(after.model.named_parameters())
    assert left["narrow"] == len(weights["narrow.weight"]) == 1
    assert len(facts["blocks_removed"]) == 1 and left["a.0"] == 0
    assert not any(name.startswith(("a.", "b.")) for name in weights)
    assert left["stem.0"] == len(weights["stem.0.weight"])
    assert all(step["chosen"] == 0 for step in facts["steps"])  # counted: one candidate is enough
    assert facts["original_ms"] is None
