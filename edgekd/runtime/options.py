"""How ONNX Runtime is asked to treat a graph that was written for one runtime or another."""

from __future__ import annotations

import onnxruntime as ort

_ERRORS_ONLY = 3  # ONNX Runtime's severity: its warnings would land on the user's terminal


def session_options(target_runtime: str) -> ort.SessionOptions:
    """Return options under which ONNX Runtime computes what the target's runtime would.

    A graph for ONNX Runtime gets its integer kernels. In a graph for another runtime
    (``tensorrt``) they are off, and quantize and dequantize steps are computed as they are
    written: ONNX Runtime would otherwise round that graph's float biases to int32, which no other
    runtime does, and the answers would not be the graph's.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    if target_runtime != "onnxruntime":
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options
