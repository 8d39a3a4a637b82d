"""Which Python packages are installed, found without importing them."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib import metadata

COMPRESS = (
    "torch",
    "lightning_fabric",
    "onnx",
    "onnxscript",
    "safetensors",
    "sklearn",
    "matplotlib",
    "jinja2",
)
# All of these install the same folder `onnxruntime`, one over the other.
ONNXRUNTIMES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
)
_DISTRIBUTIONS = {"sklearn": ("scikit-learn",), "onnxruntime": ONNXRUNTIMES}


def installed_version(module: str) -> str | None:
    """Return the version of an importable package, None when it is not there.

    Looks the package up without importing it: importing TensorRT without a GPU driver can end
    the process.
    """
    try:
        if importlib.util.find_spec(module) is None:
            return None
    except (ImportError, ValueError):
        return None
    for distribution in _DISTRIBUTIONS.get(module, (module,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "installed"


def installed_onnxruntimes(path: Sequence[str] | None = None) -> dict[str, str]:
    """Return name -> version of every build of ONNX Runtime in the folders of ``path``.

    ``path`` is ``sys.path`` if not given. More than one is a trap: what works then depends on
    which was installed last.
    """
    found = metadata.distributions() if path is None else metadata.distributions(path=list(path))
    names = {(one.name or "").lower().replace("_", "-"): one.version for one in found}
    return {name: names[name] for name in ONNXRUNTIMES if name in names}
