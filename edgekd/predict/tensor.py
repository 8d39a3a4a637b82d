"""Tensors of a graph as prediction sees them, and operations by what they do."""

from __future__ import annotations

import math
from dataclasses import dataclass

Shape = tuple[int, ...]

CONVOLUTIONS = ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "ConvInteger")
PRODUCTS = ("MatMul", "FusedMatMul", "Gemm", "FusedGemm", "TransposeMatMul", "MatMulNBits")
INTEGER_PRODUCTS = (
    "QGemm",
    "QLinearMatMul",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
)
POOLINGS = ("MaxPool", "AveragePool", "LpPool", "QLinearAveragePool", "NhwcMaxPool")
GLOBAL = ("GlobalAveragePool", "GlobalMaxPool", "QLinearGlobalAveragePool")
REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "QLinearReduceMean")
ROWS = (  # each row of the last axis by itself
    "Softmax",
    "LogSoftmax",
    "QLinearSoftmax",
    "LayerNormalization",
    "SimplifiedLayerNormalization",
    "SkipLayerNormalization",
    "RMSNormalization",
)
VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
ALONG = ("Concat", "QLinearConcat", "Split", "Slice", "Pad", "Gather")
TRANSPOSED = ("ConvTranspose", "QLinearConvTranspose")
KINDS = {
    **dict.fromkeys(TRANSPOSED, "conv_transpose"),
    **dict.fromkeys((*PRODUCTS, *INTEGER_PRODUCTS), "matmul"),
    **dict.fromkeys(VIEWS, "view"),
    **dict.fromkeys(("ReorderInput", "ReorderOutput"), "reorder"),
    "FastGelu": "gelu",
    "LogSoftmax": "softmax",
}
"""Kinds of operations that are not simply called like them."""


@dataclass(frozen=True)
class Tensor:
    """A tensor's shape, the bytes of one number, its type, and whether it is stored."""

    shape: Shape
    item_bytes: float
    dtype: str
    stored: bool = False

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of all its numbers."""
        return math.ceil(self.size * self.item_bytes)
