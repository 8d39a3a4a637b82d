"""The part of CUDA's driver that edgekd needs, through ctypes: no package has to be installed.

Names and meanings are those of NVIDIA's CUDA Driver API reference. The driver is started here, by
``cuInit``, before anything of TensorRT is touched: where no driver works, some of its versions end
the whole process.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from edgekd.errors import BundleError

LIBRARY = "libcuda.so.1"
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


@dataclass(frozen=True)
class GpuMachine:
    """What an engine has to fit: the GPU, the newest CUDA its driver runs, and the platform.

    ``compute_capability`` and ``cuda`` are texts like ``8.7`` and ``12.6``; ``platform`` is one
    like ``linux-aarch64``; ``memory_bytes`` is the memory of the GPU (shared with the CPU on a
    Jetson).
    """

    name: str
    compute_capability: str
    cuda: str
    platform: str
    memory_bytes: int


def this_platform() -> str:
    """Return this machine's platform as engines name it, like ``linux-x86_64``."""
    system = {"win32": "windows"}.get(sys.platform, sys.platform)
    return f"{system}-{platform.machine().lower()}"


def newest_cuda(library: str = LIBRARY) -> str:
    """Return the newest CUDA that a driver which works runs, like ``12.6``."""
    version = ctypes.c_int()
    _library(library).cuDriverGetVersion(ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def why_no_gpu(library: str = LIBRARY) -> str | None:
    """Start the driver; return None where it works, else in words why not."""
    try:
        code = _library(library).cuInit(0)
    except (OSError, AttributeError):
        return "no NVIDIA driver"
    return f"cuInit fails: {_message(_library(library), code)}" if code else None


class Cuda:
    """The first GPU's primary context, which PyTorch and CuPy share; pointers are plain integers.

    ``make_current`` has to be called in every thread that uses it. Raises BundleError where no
    driver works; every failed call raises RuntimeError with the driver's own words. All functions
    are in drivers for CUDA 11.4 and later, so in JetPack 5 and later; a driver without one of them
    is told so.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        if reason := why_no_gpu(library):
            raise BundleError(f"there is no usable NVIDIA GPU ({reason})")
        self._name, self._library = library, _library(library)
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._device = device
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.make_current()

    def machine(self) -> GpuMachine:
        """Return what this GPU is."""
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._device)
        memory = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), self._device)
        return GpuMachine(
            name.value.decode("utf-8", "replace"),
            f"{self._attribute(_MAJOR)}.{self._attribute(_MINOR)}",
            newest_cuda(self._name),
            this_platform(),
            memory.value,
        )

    def make_current(self) -> None:
        """Use the context in the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def free_bytes(self) -> int:
        """Return how much memory of the GPU is free; on a Jetson, without what Linux would drop."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` bytes on the GPU."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(size, 1)))
        return pointer.value

    def free(self, pointer: int) -> None:
        """Give back what ``allocate`` gave."""
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))

    def new_stream(self) -> int:
        """Return a stream of its own."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        return stream.value or 0

    def free_stream(self, stream: int) -> None:
        """Give back a stream."""
        self._call("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def to_gpu(self, pointer: int, host: int, size: int, stream: int) -> None:
        """Copy ``size`` bytes from the address ``host``; they must stay until ``wait``."""
        self._call(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(pointer),
            ctypes.c_void_p(host),
            ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )

    def from_gpu(self, host: int, pointer: int, size: int, stream: int) -> None:
        """Copy ``size`` bytes to the address ``host``; they are there after ``wait``."""
        self._call(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(host),
            ctypes.c_uint64(pointer),
            ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy ``size`` bytes on the GPU."""
        self._call(
            "cuMemcpyDtoDAsync_v2",
            ctypes.c_uint64(target),
            ctypes.c_uint64(source),
            ctypes.c_size_t(size),
            ctypes.c_void_p(stream),
        )

    def wait(self, stream: int) -> None:
        """Wait until everything given to the stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def new_event(self) -> int:
        """Return an event that takes the time."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), 0)
        return event.value or 0

    def free_event(self, event: int) -> None:
        """Give back an event."""
        self._call("cuEventDestroy_v2", ctypes.c_void_p(event))

    def record(self, event: int, stream: int) -> None:
        """Let the event take the time when the stream gets there."""
        self._call("cuEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def wait_for(self, stream: int, event: int) -> None:
        """Let ``stream`` wait, on the GPU, until ``event`` has happened."""
        self._call("cuStreamWaitEvent", ctypes.c_void_p(stream), ctypes.c_void_p(event), 0)

    def milliseconds(self, start: int, end: int) -> float:
        """Wait for the event ``end`` and return the time between the two."""
        self._call("cuEventSynchronize", ctypes.c_void_p(end))
        time = ctypes.c_float()
        self._call(
            "cuEventElapsedTime", ctypes.byref(time), ctypes.c_void_p(start), ctypes.c_void_p(end)
        )
        return time.value

    @contextlib.contextmanager
    def capture(self, stream: int, graph: list[int]) -> Iterator[None]:
        """Record what is given to the stream inside, and append the executable graph to a list."""
        begin = ctypes.c_void_p(stream)
        self._call("cuStreamBeginCapture_v2", begin, _RELAXED)
        recorded, executable = ctypes.c_void_p(), ctypes.c_void_p()
        try:
            yield
        except BaseException:  # a capture that is not ended makes the stream useless
            self._library.cuStreamEndCapture(begin, ctypes.byref(recorded))
            if recorded:
                self._library.cuGraphDestroy(recorded)
            raise
        self._call("cuStreamEndCapture", begin, ctypes.byref(recorded))
        try:
            self._call(
                "cuGraphInstantiateWithFlags",
                ctypes.byref(executable),
                recorded,
                ctypes.c_uint64(0),
            )
        finally:
            self._call("cuGraphDestroy", recorded)
        graph.append(executable.value or 0)

    def launch(self, graph: int, stream: int) -> None:
        """Run a recorded graph in the stream."""
        self._call("cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def free_graph(self, graph: int) -> None:
        """Give back a recorded graph."""
        self._call("cuGraphExecDestroy", ctypes.c_void_p(graph))

    def close(self) -> None:
        """Give the context back; others of the process that use it keep it."""
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _attribute(self, which: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), which, self._device)
        return value.value

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise RuntimeError(
                f"the driver has no {name}: it needs to be one for CUDA 11.4 or later"
            ) from None
        code = function(*arguments)
        if code:
            raise RuntimeError(f"{name}: {_message(self._library, code)}")


@lru_cache
def shared_cuda() -> Cuda:
    """Return the one Cuda of this process that engines run in and their answers live in.

    It is never closed: arrays on the GPU may outlive the model that made them. Raises what ``Cuda``
    raises, and then tries again at the next call.
    """
    return Cuda()


@lru_cache
def _library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(name)


def _message(library: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    try:
        library.cuGetErrorString(code, ctypes.byref(text))
    except AttributeError:
        return f"error {code}"
    return (text.value or b"").decode("utf-8", "replace") or f"error {code}"
