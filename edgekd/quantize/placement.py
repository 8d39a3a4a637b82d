"""Where quantizers go: the plan that each runtime's rules fill in, and the number formats.

The rules themselves are one file a runtime: ``onnxruntime.py`` and ``tensorrt.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from torch import fx

NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Scheme:
    """The integer formats that one runtime runs fast.

    Activations are ``symmetric`` int8 (zero point 0) or asymmetric uint8, one scale a tensor.
    Weights are always symmetric int8 with one scale per output channel, stored as integers behind
    a DequantizeLinear; ``weight_bits`` are those that are used: in [-127, 127] all 8, in [-63, 63]
    7, of which the sum of two products with uint8 fits into 16 bits.
    ``integer_bias``: the bias is int32 with scale (input scale * weight scale); else it is float.
    ``integer_embeddings``: embedding tables are stored as int8, one scale a row; else in float.
    ``absorbs_relu``: a ReLU in front of a quantizer whose range starts at zero can be left out.
    ``quantizes_float_weights``: the runtime takes a layer between two quantized tensors for one
    whose weights were forgotten, and quantizes them itself, with one scale.
    """

    symmetric: bool
    integer_bias: bool
    integer_embeddings: bool
    absorbs_relu: bool
    quantizes_float_weights: bool = False
    weight_bits: int = 8

    @property
    def qmin(self) -> int:
        """Smallest activation code."""
        return -128 if self.symmetric else 0

    @property
    def qmax(self) -> int:
        """Largest activation code."""
        return 127 if self.symmetric else 255


@dataclass(frozen=True)
class QuantizedTensor:
    """A tensor to quantize: the output of ``node``.

    ``readers`` are the nodes that get the quantized value, None for all of them. ``shares`` names
    the node whose quantizer (scale and zero point) this tensor uses too.
    """

    node: str
    readers: frozenset[str] | None = None
    shares: str | None = None


@dataclass
class Placement:
    """What to quantize, in graph order, and why the rest is not.

    ``weights``: names of the layers whose weight is quantized. ``reasons``: for every layer or
    sum that stays in float, by its layer name, the cause in words.
    """

    tensors: list[QuantizedTensor] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def node_inputs(node: fx.Node) -> list[fx.Node]:
    """Return the nodes whose values ``node`` reads, weights and other stored tensors left out."""
    return [n for n in node.all_input_nodes if n.op != "get_attr"]
