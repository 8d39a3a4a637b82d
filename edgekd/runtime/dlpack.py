"""Tensors of other libraries by DLPack, without importing them; own memory of the GPU as tensors.

The structs are those of DLPack's C header (dlpack.h, version 1.x) and the calls those of the array
API standard's data interchange (``__dlpack__``, ``__dlpack_device__``).
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekd.runtime.cuda import Cuda

CPU, GPU = 1, 2  # kDLCPU, kDLCUDA
_NAMES = (b"dltensor", b"dltensor_versioned")
_KINDS = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}  # DLDataTypeCode
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}  # numpy's kind -> DLDataTypeCode


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):  # DLManagedTensor
    _fields_ = (
        ("tensor", _Tensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class _Versioned(ctypes.Structure):  # DLManagedTensorVersioned
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]
_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


def device_of(tensor: Any) -> tuple[int, int] | None:
    """Return DLPack's type and number of the device that a tensor is on, None for other things."""
    if not hasattr(tensor, "__dlpack__"):
        return None
    try:
        kind, number = tensor.__dlpack_device__()
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None
    return int(kind), int(number)


def as_numpy(tensor: Any, name: str) -> npt.NDArray[Any]:
    """Return a tensor that is in the CPU's memory as an array of the same memory.

    Raises DataError where numpy cannot have it, as for a tensor of PyTorch that needs a gradient.
    """
    try:
        return np.from_dlpack(tensor)
    except Exception as error:  # each library has its own
        reason = " ".join(str(error).split())
        raise DataError(f"input {name!r} cannot be read as an array: {reason}") from error


class Borrowed:
    """A tensor's memory, for as long as this object lives.

    ``address`` is that of its first element, ``shape`` its shape, ``dtype`` a numpy name such as
    ``float32`` (``bfloat16`` for what numpy does not know), ``device`` DLPack's type and number.
    ``contiguous`` tells whether it lies in rows, as C arrays do.

    With ``stream``, a stream of CUDA, the tensor's library makes that stream wait for what it still
    computes. Raises DataError for what is no tensor.
    """

    def __init__(self, tensor: Any, name: str, stream: int | None = None) -> None:
        try:
            # Not taken over but only held: a capsule that nobody took calls its deleter itself.
            capsule = tensor.__dlpack__() if stream is None else tensor.__dlpack__(stream=stream)
        except Exception as error:  # each library has its own
            reason = " ".join(str(error).split())
            raise DataError(f"input {name!r} does not give its memory away: {reason}") from error
        self._capsule = capsule
        found = _tensor_in(capsule)
        if found is None:
            raise DataError(f"input {name!r} gives no tensor of DLPack that is still to be had")
        self.shape = tuple(found.shape[i] for i in range(found.ndim))
        self.dtype = _dtype_name(found.dtype)
        self.device = (found.device.type, found.device.id)
        self.address = (found.data or 0) + found.byte_offset
        strides = [found.strides[i] for i in range(found.ndim)] if found.strides else None
        self.contiguous = strides is None or _in_rows(self.shape, strides)


def _tensor_in(capsule: Any) -> _Tensor | None:
    at = id(capsule)  # its address, in CPython
    for name, kind in zip(_NAMES, (_Managed, _Versioned)):  # noqa: B905 - needs Python 3.10
        if _is_valid(at, name):
            tensor: _Tensor = kind.from_address(_pointer_of(at, name)).tensor
            return tensor
    return None


def _dtype_name(dtype: _DataType) -> str:
    kind = _KINDS.get(dtype.code, f"type{dtype.code}_")
    lanes = "" if dtype.lanes == 1 else f"x{dtype.lanes}"
    return "bool" if (kind, dtype.bits, lanes) == ("bool", 8, "") else f"{kind}{dtype.bits}{lanes}"


def _in_rows(shape: Sequence[int], strides: Sequence[int]) -> bool:
    if 0 in shape:
        return True
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides)):  # noqa: B905 - needs Python 3.10
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


class GpuArray:
    """An array in the GPU's memory; PyTorch, CuPy and others take it without a copy.

    ``torch.from_dlpack(array)`` and ``cupy.from_dlpack(array)`` do, ``numpy()`` copies it to the
    CPU. ``shape`` and ``dtype`` are as numpy's. What it holds is complete, so no stream has to wait
    for it. The memory is freed when the last that uses it is gone.
    """

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self._cuda = cuda
        cuda.make_current()
        self.address = cuda.allocate(self.nbytes)
        weakref.finalize(self, _free, cuda, self.address).atexit = False

    def numpy(self) -> npt.NDArray[Any]:
        """Return a copy in the CPU's memory."""
        array = np.empty(self.shape, self.dtype)
        self._cuda.make_current()
        stream = self._cuda.new_stream()
        try:
            self._cuda.from_gpu(array.ctypes.data, self.address, self.nbytes, stream)
            self._cuda.wait(stream)
        finally:
            self._cuda.free_stream(stream)
        return array

    def __dlpack_device__(self) -> tuple[int, int]:
        return GPU, 0

    def __dlpack__(
        self,
        *,
        stream: int | None = None,  # all is computed: nobody has to wait
        max_version: tuple[int, int] | None = None,  # the oldest suits everybody
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a capsule with this memory; raises BufferError for another device or a copy."""
        if copy or dl_device not in (None, (GPU, 0)):
            raise BufferError("this array is only given as it is, on GPU 0; .numpy() copies it")
        return export(self, self.address, self.shape, self.dtype, self.__dlpack_device__())


def export(
    owner: object,
    address: int,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    device: tuple[int, int],
) -> Any:
    """Return a DLPack capsule of memory that lies in rows; ``owner`` is kept alive with it."""
    sizes = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    kind = _DataType(_CODES[dtype.kind], 8 * dtype.itemsize, 1)
    place = ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64))
    tensor = _Tensor(address or None, _Device(*device), len(shape), kind, place, None, 0)
    managed = _Managed(tensor, None, ctypes.cast(_delete, ctypes.c_void_p).value)
    at = ctypes.addressof(managed)
    _exported[at] = (managed, sizes, owner)
    return _new_capsule(at, _NAMES[0], ctypes.cast(_drop_capsule, ctypes.c_void_p))


_exported: dict[int, Any] = {}
"""What capsules point to, by address, until their deleter is called."""


def _forget(managed: int) -> None:
    """Drop an exported tensor: its consumer calls this, in whatever thread."""
    _exported.pop(managed, None)


def _forget_unused(capsule: int) -> None:
    """Do the same where nobody took the tensor out of its capsule, and so changed its name."""
    if _is_valid(capsule, _NAMES[0]):
        _exported.pop(_pointer_of(capsule, _NAMES[0]), None)


_delete = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_forget)  # takes the lock of Python itself
_drop_capsule = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_forget_unused)


def _free(cuda: Cuda, address: int) -> None:
    with contextlib.suppress(RuntimeError):  # nobody could do anything about it here
        cuda.make_current()
        cuda.free(address)
