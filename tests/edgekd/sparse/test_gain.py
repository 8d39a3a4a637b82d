import pytest

from edgekd.device import load_profile
from edgekd.sparse.gain import expected_gain
from edgekd.sparse.layers import Choice, SparseLayer
from edgekd.sparse.patterns import NM, Unstructured

SMALL = SparseLayer("small", "small.weight", 64, 64, 300)
WIDE = SparseLayer("wide", "wide.weight", 512, 256, 100)


@pytest.mark.parametrize("target", ["cpu", "raspberry-pi-5"])
def test_onnx_runtime_gains_nothing(target: str) -> None:
    gain = expected_gain(load_profile(target), NM(2, 4), Choice((WIDE,), {}, 100))
    assert not gain.faster
    assert "ONNX Runtime" in gain.text and "nothing but a smaller compressed file" in gain.text


@pytest.mark.parametrize("target", ["jetson", "jetson-jetpack7"])
def test_tensorrt_gains_in_wide_layers(target: str) -> None:
    profile = load_profile(target)
    gain = expected_gain(profile, NM(2, 4), Choice((SMALL, WIDE), {}, 1000))
    assert gain.faster
    assert "1 of this model's 2 layers with zeros, 10.0 % of its multiplications" in gain.text
    assert "--sparsity=enable" in gain.text and "hardly" not in gain.text

    gain = expected_gain(profile, NM(2, 4), Choice((SMALL,), {}, 1000))
    assert "0 of this model's 1 layers" in gain.text and "expect hardly more" in gain.text


def test_tensorrt_runs_no_other_pattern_faster() -> None:
    gain = expected_gain(load_profile("jetson"), Unstructured(0.75))
    assert not gain.faster and "it runs 2:4 faster" in gain.text
    assert expected_gain(load_profile("jetson"), NM(1, 4)).faster
