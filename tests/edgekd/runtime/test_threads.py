"""Many threads on one model: no answer differs from a single thread's, and memory is flat."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_bundles import convolutions, write_bundle

from benchmarks.threads import hammer
from edgekd.runtime import load, openvino

MIB = 1 << 20


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, spec = convolutions()
    return write_bundle(tmp_path_factory.mktemp("threads") / "net", {"model.onnx": model}, spec)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("calls", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_answer_is_another_threads(network: Path, runtime: str, calls: int) -> None:
    if runtime == "openvino" and not openvino.is_installed():
        pytest.skip('needs OpenVINO: pip install "edgekd[openvino]"')
    with load(network, runtime=runtime, threads=1) as model:
        model.warmup()
        found = hammer(model, threads=8, calls=calls)
    assert (found.calls, found.wrong) == (8 * calls, 0)
    # A leak of one small batch a call would be 60 MiB in the long run. In the short one, the
    # runtimes' arenas are still growing.
    assert found.growth < (8 if calls > 1000 else 32) * MIB
