"""How ONNX Runtime's words for tensors translate to numpy's and to ours."""

from __future__ import annotations

from typing import Any

from edgekd.spec import TensorSpec

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}
"""ONNX Runtime's type of a tensor -> its numpy dtype name, for every dtype that edgekd carries."""


def describe(argument: Any) -> TensorSpec:
    """Return the TensorSpec of one of ``InferenceSession.get_inputs()`` or ``get_outputs()``.

    Symbolic axes become None. A type outside ``DTYPES`` keeps ONNX Runtime's own name, which
    equals no numpy name.
    """
    axes = tuple(size if isinstance(size, int) else None for size in argument.shape)
    return TensorSpec(argument.name, DTYPES.get(argument.type, argument.type), axes)


def one_line(error: BaseException) -> str:
    """Return an error's message on one line: ONNX Runtime's messages run over several."""
    return " ".join(str(error).split()) or type(error).__name__
