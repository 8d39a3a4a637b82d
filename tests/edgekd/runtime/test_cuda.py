"""Calls of CUDA's driver: what arrives in a library with its prototypes, and what a GPU says."""

from __future__ import annotations

import platform
import threading
from pathlib import Path

import numpy as np
import pytest
from host_cuda import compile_driver, count

from edgekd.errors import BundleError
from edgekd.runtime.cuda import Cuda, newest_cuda, this_platform, why_no_gpu


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compile_driver(tmp_path_factory.mktemp("driver"))


def test_says_what_the_machine_is(library: str) -> None:
    machine = Cuda(library).machine()
    assert (machine.name, machine.compute_capability, machine.cuda) == ("host", "8.7", "12.6")
    assert machine.memory_bytes == 6 << 30  # more than fits into 32 bits
    assert machine.platform == this_platform() == f"linux-{platform.machine()}"
    assert newest_cuda(library) == "12.6"
    assert Cuda(library).free_bytes() == 5 << 30


def test_no_driver_is_said_in_words() -> None:
    assert why_no_gpu("libnone.so.1") == "no NVIDIA driver"
    with pytest.raises(BundleError, match=r"no usable NVIDIA GPU \(no NVIDIA driver\)"):
        Cuda("libnone.so.1")


def test_copies_there_along_and_back(library: str) -> None:
    cuda = Cuda(library)
    given = np.arange(1000, dtype=np.float32)
    found = np.zeros_like(given)
    stream = cuda.new_stream()
    first, second = cuda.allocate(given.nbytes), cuda.allocate(given.nbytes)
    cuda.to_gpu(first, given.ctypes.data, given.nbytes, stream)
    cuda.copy(second, first, given.nbytes, stream)
    cuda.from_gpu(found.ctypes.data, second, given.nbytes, stream)
    cuda.wait(stream)
    np.testing.assert_array_equal(found, given)
    cuda.free(first), cuda.free(second), cuda.free_stream(stream)
    assert [count(library, what) for what in ("allocations", "streams")] == [0, 0]
    empty = cuda.allocate(0)  # the driver itself refuses this size
    cuda.free(empty)


def test_takes_the_time_and_records_graphs(library: str) -> None:
    cuda = Cuda(library)
    stream, start, end = cuda.new_stream(), cuda.new_event(), cuda.new_event()
    cuda.record(start, stream)
    cuda.wait_for(stream, start)
    assert cuda.milliseconds(start, end) == 1.5
    graphs: list[int] = []
    with cuda.capture(stream, graphs):
        assert count(library, "capturing") == 1
    cuda.launch(graphs[0], stream)
    assert count(library, "launched") == 1
    with pytest.raises(ZeroDivisionError), cuda.capture(stream, graphs):
        _ = 1 / 0
    assert (count(library, "capturing"), len(graphs)) == (0, 1)
    assert count(library, "graphs_alive") == 0  # what was recorded is not kept beside what runs
    cuda.free_graph(graphs[0]), cuda.free_event(start), cuda.free_event(end)
    cuda.free_stream(stream)
    assert [count(library, what) for what in ("events", "streams")] == [0, 0]
    cuda.close()


def test_every_thread_makes_the_context_current(library: str) -> None:
    cuda = Cuda(library)
    errors: list[str] = []

    def work() -> None:
        try:
            cuda.allocate(8)
        except RuntimeError as error:
            errors.append(str(error))
        cuda.make_current()
        cuda.free(cuda.allocate(8))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == ["cuMemAlloc_v2: invalid device context"]


def test_an_old_driver_is_told_so(tmp_path: Path) -> None:
    few = """
    int cuInit(unsigned f) { return 0; }
    int cuDeviceGet(int *d, int i) { *d = 0; return 0; }"""
    with pytest.raises(RuntimeError, match=r"no cuDevicePrimaryCtxRetain: .* CUDA 11.4 or later"):
        Cuda(compile_driver(tmp_path, few))


@pytest.mark.gpu
def test_the_same_on_a_gpu() -> None:
    reason = why_no_gpu()
    if reason is not None:
        pytest.skip(f"needs an NVIDIA GPU: {reason}")
    cuda = Cuda()
    machine = cuda.machine()
    assert machine.memory_bytes > 1 << 28 and float(machine.compute_capability) >= 5
    given = np.arange(1000, dtype=np.float32)
    found = np.zeros_like(given)
    stream, start, end = cuda.new_stream(), cuda.new_event(), cuda.new_event()
    pointers = [cuda.allocate(given.nbytes) for _ in range(2)]
    cuda.record(start, stream)
    cuda.to_gpu(pointers[0], given.ctypes.data, given.nbytes, stream)
    graphs: list[int] = []
    with cuda.capture(stream, graphs):
        cuda.copy(pointers[1], pointers[0], given.nbytes, stream)
    cuda.launch(graphs[0], stream)
    cuda.from_gpu(found.ctypes.data, pointers[1], given.nbytes, stream)
    cuda.record(end, stream)
    assert cuda.milliseconds(start, end) > 0
    cuda.wait(stream)
    np.testing.assert_array_equal(found, given)
    for pointer in pointers:
        cuda.free(pointer)
    cuda.free_graph(graphs[0])
    cuda.close()
