import pytest
import torch
from marks import with_slow
from networks import NETWORKS, quantized

from edgekd.graph.program import output_tensors
from edgekd.graph.taps import add_taps
from edgekd.quantize.blocks import find_blocks
from edgekd.quantize.taps import find_taps

QUICK = {"resnet", "transformer", "two_inputs"}


@pytest.mark.parametrize("name", with_slow(NETWORKS, NETWORKS.keys() - QUICK))
@pytest.mark.parametrize("runtime", ["onnxruntime", "tensorrt"])
def test_both_programs_show_the_same_tensors_behind_their_outputs(name: str, runtime: str) -> None:
    found = quantized(name, runtime)
    inputs = found.inputs
    with torch.no_grad():
        student, teacher = (
            m(*inputs)
            for m in add_taps(found.fake, found.graph, find_taps(found.fake, found.graph))
        )
        outputs = output_tensors(found.fake(*inputs))
    assert len(student) == len(teacher) >= len(outputs)
    assert all(torch.equal(a, b) for a, b in zip(outputs, student, strict=False))
    for a, b in zip(student, teacher, strict=True):
        assert a.shape == b.shape
        error = (a - b).square().mean() / b.square().mean()
        assert error < 0.01, "int8 is near the float tensor, another tensor would not be"


def test_every_block_but_the_last_has_a_tap_and_training_one_trains_the_other() -> None:
    found = quantized("resnet")
    tapped, _ = add_taps(found.fake, found.graph, find_taps(found.fake, found.graph))
    assert len(tapped(*found.inputs)) == 1 + len(find_blocks(found.fake)) - 1 == 5
    own, shared = set(found.fake.parameters()), set(tapped.parameters())
    assert shared and shared <= own
