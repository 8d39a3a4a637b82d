"""What an engine is made of, by TensorRT's inspector: layers, precisions, kernels. Pure.

The inspector's JSON is described in NVIDIA's TensorRT developer guide, "Engine Inspector"; keys
came and went between versions, so every one may be missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgekd.errors import BundleError

# The inspector says "Row major Int8 format", "Int8 NC/32HW32" or "Channel major FP16 format ...".
_PRECISIONS = (
    ("int8", r"\bint8\b"),
    ("float16", r"\b(fp16|half|float16)\b"),
    ("bfloat16", r"\b(bf16|bfloat16)\b"),
    ("fp8", r"\bfp8\b"),
    ("int4", r"\bint4\b"),
    ("int32", r"\bint32\b"),
    ("int64", r"\bint64\b"),
    ("bool", r"\bbool\b"),
    ("float32", r"\b(fp32|float|float32)\b"),
)
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_SEPARATORS = re.compile(r" \+ |\|\||, |\x1e")  # how the names of fused layers are joined
_CALLED = re.compile(r"\w+\((.*)\)")  # "PWN(relu)"
INTEGERS = ("int8", "fp8", "int4")
_COPIES = ("reformat", "noop", "constant")  # carry the names of what they serve, compute nothing


@dataclass(frozen=True)
class EngineLayer:
    """A layer of an engine, which may hold several of the ONNX model.

    ``onnx`` are the names of those nodes. ``inputs`` and ``outputs`` are precisions (``int8``,
    ``float16``, ...; ``unknown`` where the inspector does not say). ``milliseconds`` is None where
    it was not profiled.
    """

    name: str
    kind: str
    onnx: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tactic: str
    milliseconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def read_layers(text: str, times: Mapping[str, float] | None = None) -> tuple[EngineLayer, ...]:
    """Read the inspector's JSON; ``times`` are milliseconds by layer name.

    Layers of an engine that was built without detail are names only. Raises BundleError for text
    that is not the inspector's.
    """
    try:
        return tuple(_layer(entry, times or {}) for entry in json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError("this is not what TensorRT's engine inspector writes") from error


def fallbacks(layers: Sequence[EngineLayer], quantized: Collection[str]) -> dict[str, str]:
    """Return the quantized ONNX layers that do not run on integers -> the precision they got.

    ``unknown`` are those that no layer of the engine names: they lie in a part that TensorRT
    compiled as a whole.
    """
    found = {}
    for name in quantized:
        holders = [
            layer for layer in layers if name in layer.onnx and layer.kind.lower() not in _COPIES
        ]
        precisions = [_precision_of(layer) for layer in holders]
        if not any(precision in INTEGERS for precision in precisions):
            found[name] = next((p for p in precisions if p != "unknown"), "unknown")
    return found


def count_precisions(layers: Iterable[EngineLayer]) -> dict[str, int]:
    """Return how many layers compute in each precision."""
    counts: dict[str, int] = {}
    for layer in layers:
        precision = _precision_of(layer)
        counts[precision] = counts.get(precision, 0) + 1
    return counts


def _precision_of(layer: EngineLayer) -> str:
    """Return what a layer computes in: what its first input has."""
    return (layer.inputs or layer.outputs or ("unknown",))[0]


def _layer(entry: Any, times: Mapping[str, float]) -> EngineLayer:
    if isinstance(entry, str):
        return EngineLayer(entry, "", _onnx_names(entry, ""), (), (), "", times.get(entry))
    name = str(entry.get("Name", ""))
    return EngineLayer(
        name,
        str(entry.get("LayerType", "")),
        _onnx_names(name, str(entry.get("Metadata", ""))),
        _tensors(entry.get("Inputs")),
        _tensors(entry.get("Outputs")),
        str(entry.get("TacticName") or entry.get("TacticValue") or ""),
        times.get(name),
    )


def _tensors(entries: object) -> tuple[str, ...]:
    if not isinstance(entries, list):
        return ()
    return tuple(_precision(entry) for entry in entries if isinstance(entry, dict))


def _precision(tensor: Mapping[str, Any]) -> str:
    said = str(tensor.get("Format/Datatype") or tensor.get("Datatype") or "").lower()
    return next((name for name, pattern in _PRECISIONS if re.search(pattern, said)), "unknown")


def _onnx_names(name: str, metadata: str) -> tuple[str, ...]:
    """Return the ONNX nodes in a layer: from its metadata (8.6 and newer), else from its name."""
    found = _ONNX_LAYER.findall(metadata)
    if not found:
        parts = _SEPARATORS.split(name)
        found = [called[1] if (called := _CALLED.fullmatch(part)) else part for part in parts]
    return tuple(dict.fromkeys(filter(None, (part.strip() for part in found))))
