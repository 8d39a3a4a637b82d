"""What is predicted: one kernel that a runtime launches, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = (
    "macs",
    "read",
    "weights",
    "written",
    "inner",
    "outer",
    "places",
    "window",
    "stride",
    "groups",
    "layout",
)
"""The numbers of a kernel, in the order in which a calibration table stores them."""

WEIGHTED = ("conv", "depthwise", "conv_transpose", "matmul")


@dataclass(frozen=True)
class Kernel:
    """One launch: what it is, how much it computes and how much it moves.

    ``op`` is the operation as the runtime names it, ``kind`` what is alike in latency (``conv``,
    ``depthwise``, ``matmul``, or the operation in small letters), ``arithmetic`` is ``float32``,
    ``float16`` or ``int8``. ``macs`` are multiply-accumulates; ``read``, ``weights`` and
    ``written`` are bytes of activations read, of stored tensors, and of results.

    The other numbers give the shape. Convolutions and products: ``inner`` input channels of a
    group (or features), ``outer`` output channels, ``places`` output positions (or rows),
    ``window`` weights of one channel pair, ``stride``, ``groups``. Other operations: ``inner`` is
    the length that lies together in memory or is reduced, ``outer`` the last axis, ``places`` how
    often; ``window``, ``stride`` and ``groups`` are those of poolings, elsewhere small numbers
    that tell ways of computing apart (``edgekd/predict/describe.py``). ``layout`` is 0 for channels
    first, 1 for ONNX Runtime's blocks of channels (NCHWc), 2 for channels last.
    """

    name: str
    op: str
    kind: str
    arithmetic: str
    macs: int = 0
    read: int = 0
    weights: int = 0
    written: int = 0
    inner: int = 1
    outer: int = 1
    places: int = 1
    window: int = 1
    stride: int = 1
    groups: int = 1
    layout: int = 0

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return self.read + self.weights + self.written

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of ``COLUMNS``."""
        return [getattr(self, name) for name in COLUMNS]
