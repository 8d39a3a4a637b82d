"""Try one runtime, in a process of its own: what crashes here takes nothing else with it.

``python runtime_check.py NAME [MODEL]`` prints what it found as JSON. It runs by its path, so it
imports nothing of edgekd.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def onnxruntime(model: str) -> dict[str, Any]:
    """Return the version, the providers built in, and those that really open ``model``."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4  # a provider that does not load is a result, no error
    built_in, working = ort.get_available_providers(), []
    for provider in built_in:
        try:
            session = ort.InferenceSession(model, options, providers=[provider])
        except Exception:  # ONNX Runtime's errors have no base class of their own
            continue
        if provider in session.get_providers():
            working.append(provider)
    return {"version": ort.__version__, "built_in": built_in, "working": working}


def openvino() -> dict[str, Any]:
    """Return the version and device -> full name."""
    # Its import announces itself over the network unless this package is not importable.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    from openvino import Core, __version__

    core = Core()
    names = {name: core.get_property(name, "FULL_DEVICE_NAME") for name in core.available_devices}
    return {"version": str(__version__).partition("-")[0], "devices": names}


def tensorrt(module: str) -> dict[str, Any]:
    """Return the version and whether a builder starts; only where a driver works."""
    import importlib

    trt = importlib.import_module(module)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    return {"version": trt.__version__, "builder": builder is not None}


def main(name: str, *rest: str) -> None:
    """Print the answer for one runtime."""
    match name:
        case "onnxruntime":
            answer = onnxruntime(*rest)
        case "openvino":
            answer = openvino()
        case _:
            answer = tensorrt(name)
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
