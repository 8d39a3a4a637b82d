"""What one call of an engine uses: an execution context, a stream, and memory on the GPU."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import DataError
from edgekd.runtime.batches import Batching
from edgekd.runtime.dlpack import GPU, Borrowed, GpuArray

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekd.runtime.cuda import Cuda
    from edgekd.spec import TensorSpec

ALIGNMENT = 256
"""Addresses that TensorRT is given are multiples of this (IExecutionContext::setTensorAddress)."""


class Memory:
    """A stream and named buffers on the GPU, which grow to what was asked for and stay.

    They are given back by ``free``, or when this object is gone.
    """

    def __init__(self, cuda: Cuda) -> None:
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


class Slot:
    """An execution context with its memory; one call at a time.

    ``owners`` are the objects of TensorRT that have to outlive the context. ``dtypes`` are what the
    engine takes and gives; ``signature`` are the inputs and outputs as the caller knows them.
    """

    def __init__(
        self,
        context: Any,
        owners: Any,
        cuda: Cuda,
        dtypes: Mapping[str, str],
        signature: tuple[Sequence[TensorSpec], Sequence[TensorSpec]],
    ) -> None:
        self._context, self._owners, self._cuda = context, owners, cuda
        self._memory = Memory(cuda)
        self._dtypes = {name: np.dtype(dtype) for name, dtype in dtypes.items()}
        self._outputs = {tensor.name: tensor for tensor in signature[1]}
        self._inputs = {tensor.name: tensor for tensor in signature[0]}

    def run(
        self, names: Sequence[str], feed: Mapping[str, Any], batching: Batching
    ) -> Sequence[Any]:
        """Run all parts of a batch and return the outputs; see ``TensorRTSession.run``."""
        self._cuda.make_current()
        sources: dict[str, Source] = {}
        try:
            for name, value in feed.items():
                sources[name] = self._source(name, value)
            parts = batching.parts({name: source.shape for name, source in sources.items()})
            on_gpu = any(source.borrowed is not None for source in sources.values())
            results = Results(self._cuda, len(parts) > 1, on_gpu)
            for part in parts:
                self._run_part(part, sources, batching, results)
        finally:
            # Nobody's memory may be read or written after the call, also after one that failed.
            self._cuda.wait(self._memory.stream)
        return [results.take(name, self._outputs[name].dtype) for name in names]

    def free(self) -> None:
        """Give everything back: the context first, then its memory, then the engine."""
        self._cuda.make_current()
        self._context = None
        self._memory.free()
        self._owners = None

    def _source(self, name: str, value: Any) -> Source:
        dtype = self._dtypes[name]
        if isinstance(value, np.ndarray):
            return Source(_narrowed(name, value, dtype), None)
        borrowed = Borrowed(value, name, self._memory.stream)
        check_borrowed(borrowed, self._inputs[name], dtype)
        return Source(None, borrowed)

    def _run_part(
        self,
        part: slice | None,
        sources: Mapping[str, Source],
        batching: Batching,
        results: Results,
    ) -> None:
        context, memory = self._context, self._memory
        for name, source in sources.items():
            rows = part if name in batching.batched else None
            shape, address, size = source.rows(rows)
            if not context.set_input_shape(name, shape):
                raise DataError(f"the engine does not take {shape} for input {name!r}")
            if source.borrowed is None or address % ALIGNMENT:
                buffer = memory.buffer(name, size)
                if source.borrowed is None:
                    self._cuda.to_gpu(buffer, address, size, memory.stream)
                else:
                    self._cuda.copy(buffer, address, size, memory.stream)
                address = buffer
            self._set_address(name, address)
        copies = []
        for name in self._outputs:
            shape = tuple(context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise DataError(f"the shape of output {name!r} depends on values, not on shapes")
            target = results.place(name, shape, self._dtypes[name], part, sources, batching)
            size = int(np.prod(shape, dtype=np.int64)) * self._dtypes[name].itemsize
            address = target
            if not results.on_gpu or target % ALIGNMENT:
                address = memory.buffer(name, size)
                copies.append((target, address, size))
            self._set_address(name, address)
        if not context.execute_async_v3(memory.stream):
            raise RuntimeError("TensorRT cannot run the engine")
        for target, address, size in copies:
            if results.on_gpu:
                self._cuda.copy(target, address, size, memory.stream)
            else:
                self._cuda.from_gpu(target, address, size, memory.stream)

    def _set_address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise RuntimeError(f"TensorRT does not take the memory of {name!r}")


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
    """The outputs of all parts of a batch, each in one piece of memory from the first part on."""

    def __init__(self, cuda: Cuda, in_parts: bool, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self._cuda, self._in_parts = cuda, in_parts
        self._whole: dict[str, Any] = {}

    def place(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        part: slice | None,
        sources: Mapping[str, Source],
        batching: Batching,
    ) -> int:
        """Return the address that a part's output ``name`` of ``shape`` is to go to."""
        if part is None:
            return _address(self._whole.setdefault(name, self._new(shape, dtype)))
        if shape[:1] != (part.stop - part.start,):
            raise DataError(
                f"the batch is larger than the engine's largest, and output {name!r} of shape "
                f"{shape} has no row for each sample: call the model with smaller batches"
            )
        if name not in self._whole:
            count = next(s.shape[0] for n, s in sources.items() if n in batching.batched)
            self._whole[name] = self._new((count, *shape[1:]), dtype)
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


def check_borrowed(borrowed: Borrowed, spec: TensorSpec, dtype: np.dtype[Any]) -> None:
    """Raise DataError unless memory of the GPU can be an input as it is: nothing is converted."""
    name = spec.name
    if borrowed.device != (GPU, 0):
        raise DataError(
            f"input {name!r} is on GPU {borrowed.device[1]}, the engine on GPU 0: move it there, "
            "or let CUDA_VISIBLE_DEVICES name one GPU"
        )
    if borrowed.dtype != dtype.name:
        raise DataError(
            f"input {name!r} must be {dtype.name} on this engine, not {borrowed.dtype}: convert it"
        )
    fits = len(borrowed.shape) == len(spec.shape) and all(
        wanted is None or wanted == size
        for wanted, size in zip(spec.shape, borrowed.shape)  # noqa: B905 - needs Python 3.10
    )
    if not fits:
        raise DataError(f"the model's input is {spec}, which shape {borrowed.shape} does not fit")
    if not borrowed.contiguous:
        raise DataError(f"input {name!r} does not lie in rows: call .contiguous() on it")


def _narrowed(name: str, array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return an array in rows of the engine's dtype: int32 where TensorRT 8 has no int64."""
    if array.dtype != dtype and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise DataError(f"input {name!r} has numbers beyond {dtype.name}, all this engine has")
    # Not ascontiguousarray: it makes an axis where there is none.
    return np.asarray(array, dtype, order="C")


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
