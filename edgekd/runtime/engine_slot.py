"""What one call of an engine uses: an execution context, a stream, and memory on the GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import DataError
from edgekd.runtime.batches import Batching
from edgekd.runtime.dlpack import GPU, Borrowed
from edgekd.runtime.engine_memory import ALIGNMENT, Memory, Results, Source

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekd.runtime.cuda import Cuda
    from edgekd.spec import TensorSpec


class RefusedError(RuntimeError):
    """TensorRT did not do what it was asked; only its log says why."""


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
            count = 0 if parts[-1] is None else parts[-1].stop
            results = Results(self._cuda, count, on_gpu)
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
            target = results.place(name, shape, self._dtypes[name], part)
            size = int(np.prod(shape, dtype=np.int64)) * self._dtypes[name].itemsize
            address = target
            if not results.on_gpu or target % ALIGNMENT:
                address = memory.buffer(name, size)
                copies.append((target, address, size))
            self._set_address(name, address)
        if not context.execute_async_v3(memory.stream):
            raise RefusedError("TensorRT cannot run the engine")
        for target, address, size in copies:
            if results.on_gpu:
                self._cuda.copy(target, address, size, memory.stream)
            else:
                self._cuda.from_gpu(target, address, size, memory.stream)

    def _set_address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise RefusedError(f"TensorRT does not take the memory of {name!r}")


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
