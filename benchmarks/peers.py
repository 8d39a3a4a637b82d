"""The other post-training quantizers for ONNX models, each from its own public package.

All of them get the same FP32 model and the same calibration samples and otherwise their defaults,
with one exception in their favour: a model with attention is announced to NNCF as a transformer,
and is also given to ONNX Runtime's dynamic quantizer, which its documentation recommends for these.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgekd.export.onnx import quiet

Rows = list[dict[str, np.ndarray]]  # calibration samples, each a batch of one by input name


def quantize_with_peers(baseline: Path, folder: Path, rows: Rows) -> dict[str, Path]:
    """Write what every peer makes of ``baseline`` into ``folder``; return name -> file.

    A peer that fails on the model is left out, with a line that says why.
    """
    makers: dict[str, Callable[[Path, Path, Rows], None]] = {
        "onnxruntime quantize_static": _static,
        "NNCF post-training (ONNX)": _nncf,
    }
    if _has_attention(baseline):
        makers["onnxruntime quantize_dynamic"] = _dynamic
    made = {}
    for index, (name, make) in enumerate(makers.items()):
        out = folder / f"peer-{index}.onnx"
        try:
            with quiet():
                make(baseline, out, rows)
        except Exception as error:  # a peer may fail in any way; the others still count
            print(f"{name} failed: {' '.join(str(error).split())[:200]}")
        else:
            made[name] = out
    return made


def _has_attention(model: Path) -> bool:
    return any(node.op_type == "Softmax" for node in onnx.load(model).graph.node)


def _prepared(baseline: Path, out: Path) -> str:
    """Run ONNX Runtime's own preparation, which its quantizers ask for."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = str(out.with_suffix(".prepared.onnx"))
    try:
        quant_pre_process(str(baseline), prepared)
    except Exception:  # its symbolic shape inference does not know every model
        quant_pre_process(str(baseline), prepared, skip_symbolic_shape=True)
    return prepared


def _static(baseline: Path, out: Path, rows: Rows) -> None:
    """QDQ format, one scale per output channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter(rows)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    quantize_static(
        _prepared(baseline, out), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True
    )


def _dynamic(baseline: Path, out: Path, _: Rows) -> None:
    """Weights one scale per output channel, activations measured at every call."""
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(_prepared(baseline, out), str(out), per_channel=True)


def _nncf(baseline: Path, out: Path, rows: Rows) -> None:
    import nncf

    options: dict[str, Any] = {"subset_size": len(rows)}
    if _has_attention(baseline):
        options["model_type"] = nncf.ModelType.TRANSFORMER
    onnx.save(nncf.quantize(onnx.load(baseline), nncf.Dataset(rows), **options), out)
