"""The file that a target gets, and the graph that computes here what the target will compute."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, fx

from edgekd.device import DeviceProfile
from edgekd.export.half import to_half
from edgekd.export.half_rounding import with_rounding
from edgekd.export.onnx import export_onnx
from edgekd.spec import ModelSpec


@dataclass(frozen=True)
class Deployed:
    """``onnx`` is for the target, ``here`` is to be evaluated in its place on this machine.

    They differ where the target computes in FP16. ``kept`` says by layer name what stayed in FP32.
    """

    onnx: bytes
    here: bytes
    kept: dict[str, str] = field(default_factory=dict)


def export_for(
    profile: DeviceProfile, module: fx.GraphModule, example: tuple[Tensor, ...], spec: ModelSpec
) -> Deployed:
    """Export ``module`` as the device of ``profile`` wants it. Raises ExportError."""
    onnx = export_onnx(module, example, spec, opset=profile.opset, layer_norm=profile.layer_norm)
    if profile.float_type != "float16":
        return Deployed(onnx, onnx)
    half = to_half(onnx)
    return Deployed(half.model, with_rounding(half.model), half.kept)
