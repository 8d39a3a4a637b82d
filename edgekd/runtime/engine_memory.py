"""Where the inputs and outputs of an engine lie: arrays, borrowed tensors, buffers on the GPU."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import DataError
from edgekd.runtime.dlpack import Borrowed, GpuArray

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekd.runtime.cuda import Cuda

ALIGNMENT = 256
"""Addresses that TensorRT is given are multiples of this (IExecutionContext::setTensorAddress)."""


class Memory:
    """A stream and named buffers on the GPU, which grow to what was asked for and stay.

    They are given back by ``free``, or when this object is gone.
    """

    def __init__(self, cuda: Cuda) -> None:
        cuda.make_current()
        self.cuda, self.stream = cuda, cuda.new_stream()
        self._buffers: dict[str, tuple[int, int]] = {}
        self.free = weakref.finalize(self, _free, cuda, self.stream, self._buffers)
        self.free.atexit = False

    def buffer(self, name: str, size: int) -> int:
        """Return the address of at least ``size`` bytes, the same as before where it suffices."""
        address, have = self._buffers.get(name, (0, -1))
        if have < size:
            if address:
                del self._buffers[name]
                self.cuda.free(address)
            address = self.cuda.allocate(size)
            self._buffers[name] = address, size
        return address


class Source:
    """Where an input lies: an array in rows on the CPU, or memory of the GPU that is borrowed."""

    def __init__(self, array: npt.NDArray[Any] | None, borrowed: Borrowed | None) -> None:
        self.array, self.borrowed = array, borrowed
        if borrowed is not None:
            self.shape, self.address = borrowed.shape, borrowed.address
            self.itemsize = np.dtype(borrowed.dtype).itemsize
        else:
            assert array is not None
            self.shape, self.address = array.shape, array.ctypes.data
            self.itemsize = array.itemsize

    def rows(self, part: slice | None) -> tuple[tuple[int, ...], int, int]:
        """Return shape, address and size in bytes of some rows, of all for None."""
        row = int(np.prod(self.shape[1:], dtype=np.int64)) * self.itemsize
        if part is None:
            whole = int(np.prod(self.shape, dtype=np.int64)) * self.itemsize
            return self.shape, self.address, whole
        count = part.stop - part.start
        return (count, *self.shape[1:]), self.address + part.start * row, count * row


class Results:
    """The outputs of all parts of a batch, each in one piece of memory from the first part on.

    ``count`` is the number of all rows.
    """

    def __init__(self, cuda: Cuda, count: int, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self._cuda, self._count = cuda, count
        self._whole: dict[str, Any] = {}

    def place(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], part: slice | None
    ) -> int:
        """Return the address that a part's output ``name`` of ``shape`` is to go to.

        Raises DataError for an output that cannot be put together from those of parts.
        """
        if part is None:
            self._whole[name] = self._new(shape, dtype)
            return _address(self._whole[name])
        if shape[:1] != (part.stop - part.start,):
            raise DataError(
                f"the batch is larger than the engine's largest, and output {name!r} of shape "
                f"{shape} has no row for each sample: call the model with smaller batches"
            )
        if name not in self._whole:
            self._whole[name] = self._new((self._count, *shape[1:]), dtype)
        whole = self._whole[name]
        if whole.shape[1:] != shape[1:]:
            raise DataError(f"output {name!r} has another shape in each part of the batch")
        row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        return _address(whole) + int(part.start) * row

    def take(self, name: str, dtype: str) -> Any:
        """Return an output, converted to ``dtype`` where it is an array of numpy."""
        found = self._whole[name]
        return found if self.on_gpu else found.astype(dtype, copy=False)

    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return GpuArray(self._cuda, shape, dtype) if self.on_gpu else np.empty(shape, dtype)


def _address(array: Any) -> int:
    return int(array.address if isinstance(array, GpuArray) else array.ctypes.data)


def _free(cuda: Cuda, stream: int, buffers: dict[str, tuple[int, int]]) -> None:
    with contextlib.suppress(RuntimeError):  # nobody could do anything about it here
        cuda.make_current()
        for address, _ in _emptied(buffers):
            cuda.free(address)
        cuda.free_stream(stream)


def _emptied(buffers: dict[str, tuple[int, int]]) -> Iterator[tuple[int, int]]:
    while buffers:
        yield buffers.popitem()[1]
