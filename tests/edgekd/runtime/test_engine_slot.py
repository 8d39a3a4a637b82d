"""How a call of an engine moves memory: parts, alignment, conversion, giving back.

In place of TensorRT's context stands arithmetic of numpy on addresses, in place of the GPU the
CPU's memory (tests/host_cuda.c). So this is about our side of the calls only; what TensorRT does
with them is in test_tensorrt.py, on a GPU.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import pytest
from host_cuda import compile_driver, count
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import DataError
from edgekd.runtime.batches import Batching
from edgekd.runtime.cuda import Cuda
from edgekd.runtime.dlpack import CPU, GPU, GpuArray
from edgekd.runtime.engine_manifest import ShapeRange
from edgekd.runtime.engine_memory import ALIGNMENT, Memory
from edgekd.runtime.engine_slot import Slot
from edgekd.runtime.pool import Pool
from edgekd.spec import TensorSpec

SIZE = 3  # a row of 12 bytes: parts do not start at multiples of 256
INPUTS = (TensorSpec("x", "float32", (None, SIZE)), TensorSpec("k", "int64", ()))
OUTPUTS = (TensorSpec("y", "float32", (None, SIZE)), TensorSpec("n", "int64", (None,)))
OWN = {"x": "float32", "k": "int32", "y": "float32", "n": "int32"}
BATCHING = Batching(
    {"x": ShapeRange((2, SIZE), (4, SIZE), (4, SIZE)), "k": ShapeRange((), (), ())}, {"x"}
)


class Arithmetic:
    """y = x * k and n = the sum of each row of y, on what lies at the addresses."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.rows: list[int] = []
        self.fails = False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        rows = self.shapes["x"][0]
        return {"y": (rows, SIZE), "n": (rows,)}[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address % ALIGNMENT == 0

    def execute_async_v3(self, stream: int) -> bool:
        rows = self.shapes["x"][0]
        self.rows.append(rows)
        at = {name: self._at(name, ctypes.c_float, rows * SIZE) for name in "xy"}
        at["y"][:] = at["x"] * self._at("k", ctypes.c_int32, 1)[0]
        self._at("n", ctypes.c_int32, rows)[:] = at["y"].reshape(rows, SIZE).sum(axis=1)
        return not self.fails

    def _at(self, name: str, kind: Any, size: int) -> np.ndarray:
        return np.ctypeslib.as_array((kind * size).from_address(self.addresses[name]))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> str:
    return compile_driver(tmp_path_factory.mktemp("driver"))


def new_slot(library: str) -> tuple[Slot, Arithmetic, Cuda]:
    cuda, context = Cuda(library), Arithmetic()
    return Slot(context, None, cuda, OWN, (INPUTS, OUTPUTS)), context, cuda


def on_gpu(cuda: Cuda, array: np.ndarray) -> GpuArray:
    found = GpuArray(cuda, array.shape, array.dtype)
    ctypes.memmove(found.address, array.ctypes.data, array.nbytes)
    return found


def rows(count: int) -> np.ndarray:
    return np.arange(count * SIZE, dtype=np.float32).reshape(count, SIZE)


@given(count=st.integers(2, 40), gpu=st.booleans(), k=st.integers(-9, 9))
def test_parts_come_out_as_one(library: str, count: int, gpu: bool, k: int) -> None:
    slot, context, cuda = new_slot(library)
    x = rows(count)
    feed = {"x": on_gpu(cuda, x) if gpu else x, "k": np.array(k, np.int64)}
    y, n = slot.run(["y", "n"], feed, BATCHING)
    assert isinstance(y, GpuArray) == gpu
    y, n = (y.numpy(), n.numpy()) if gpu else (y, n)
    np.testing.assert_array_equal(y, x * k)
    np.testing.assert_array_equal(n, (x * k).sum(axis=1))
    assert n.dtype == (np.int32 if gpu else np.int64)  # nothing is converted on the GPU
    assert sum(context.rows) == count and max(context.rows) <= 4
    slot.free()


def test_what_lies_right_on_the_gpu_is_not_copied(library: str) -> None:
    slot, context, cuda = new_slot(library)
    x = on_gpu(cuda, rows(4))
    before = count(library, "bytes")
    (y,) = slot.run(["y"], {"x": x, "k": np.array(2, np.int64)}, BATCHING)
    assert context.addresses["x"] == x.address and context.addresses["y"] == y.address
    assert count(library, "bytes") - before == 4  # k alone
    np.testing.assert_array_equal(y.numpy(), 2 * rows(4))


def test_arrays_in_any_order_of_memory(library: str) -> None:
    slot, _, _ = new_slot(library)
    x = np.asfortranarray(rows(8))[::2]
    (y,) = slot.run(["y"], {"x": x, "k": np.array(3, np.int64)}, BATCHING)
    np.testing.assert_array_equal(y, 3 * x)


def test_everything_is_given_back(library: str) -> None:
    before = count(library, "allocations"), count(library, "streams")
    slot, _, cuda = new_slot(library)
    for size in (2, 4, 8, 12):
        slot.run(["y"], {"x": rows(size), "k": np.array(1, np.int64)}, BATCHING)
    assert count(library, "allocations") == before[0] + 4  # one each, whatever came
    slot.free()
    slot.free()
    assert (count(library, "allocations"), count(library, "streams")) == before
    memory = Memory(cuda)
    memory.buffer("x", 8)
    del memory  # nobody closed it
    assert (count(library, "allocations"), count(library, "streams")) == before


def test_threads_share_slots_of_a_pool(library: str) -> None:
    before = count(library, "allocations"), count(library, "streams")
    pool: Pool[Slot] = Pool(lambda: new_slot(library)[0], Slot.free, 3)
    wrong: list[int] = []

    def work(number: int) -> None:
        for call in range(100):
            x, k = rows(2 + (number + call) % 20) + number, np.array(number, np.int64)
            with pool.item() as slot:
                (y,) = slot.run(["y"], {"x": x, "k": k}, BATCHING)
            wrong.extend([call] * (not np.array_equal(y, x * number)))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    assert wrong == []
    assert (count(library, "allocations"), count(library, "streams")) == before


def test_a_call_that_fails_waits_for_the_gpu_and_frees(library: str) -> None:
    slot, context, cuda = new_slot(library)
    before, waits = count(library, "allocations"), count(library, "waits")
    context.fails = True
    feed = {"x": on_gpu(cuda, rows(4)), "k": np.array(1, np.int64)}
    with pytest.raises(RuntimeError, match="TensorRT cannot run the engine"):
        slot.run(["y"], feed, BATCHING)
    assert count(library, "waits") == waits + 1
    slot.free()
    del feed
    assert count(library, "allocations") == before


class Tensor:
    """Memory that says of itself what a test wants to hear."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (GPU, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: int | None = None) -> Any:
        from edgekd.runtime import dlpack

        assert stream  # the engine's, which the library has to make wait
        array = self.array
        capsule = dlpack.export(self, array.ctypes.data, array.shape, array.dtype, self.device)
        if not array.flags.c_contiguous:
            capsule = array.__dlpack__()
        return capsule


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (Tensor(rows(4), (GPU, 1)), "input 'x' is on GPU 1, the engine on GPU 0"),
        (Tensor(rows(4).astype(np.float16)), "must be float32 on this engine, not float16"),
        (Tensor(rows(4)[:, :2].copy()), r"x: float32\[N, 3\], which shape \(4, 2\)"),
        (Tensor(rows(4)[0].copy()), r"x: float32\[N, 3\], which shape \(3,\)"),
    ],
)
def test_a_tensor_on_the_gpu_that_does_not_fit(library: str, tensor: Any, message: str) -> None:
    slot, _, _ = new_slot(library)
    with pytest.raises(DataError, match=message):
        slot.run(["y"], {"x": tensor, "k": np.array(1, np.int64)}, BATCHING)


def test_a_tensor_that_does_not_lie_in_rows(library: str) -> None:
    from edgekd.runtime.dlpack import Borrowed
    from edgekd.runtime.engine_slot import check_borrowed

    borrowed = Borrowed(np.asfortranarray(rows(4)), "x")
    borrowed.device = (GPU, 0)
    with pytest.raises(DataError, match=r"does not lie in rows: call \.contiguous\(\)"):
        check_borrowed(borrowed, INPUTS[0], np.dtype(np.float32))
    borrowed.device = (CPU, 0)
    with pytest.raises(DataError, match="the engine on GPU 0"):
        check_borrowed(borrowed, INPUTS[0], np.dtype(np.float32))


def test_numbers_that_int32_cannot_hold(library: str) -> None:
    slot, _, _ = new_slot(library)
    with pytest.raises(DataError, match="input 'k' has numbers beyond int32"):
        slot.run(["y"], {"x": rows(4), "k": np.array(2**31, np.int64)}, BATCHING)


def test_an_output_without_rows_cannot_be_put_together(library: str) -> None:
    slot, context, _ = new_slot(library)
    context.get_tensor_shape = lambda name: (1, SIZE)  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"has no row for each sample: .* smaller batches"):
        slot.run(["y"], {"x": rows(8), "k": np.array(1, np.int64)}, BATCHING)
    context.get_tensor_shape = lambda name: (-1, SIZE)  # type: ignore[method-assign]
    with pytest.raises(DataError, match="shape of output 'y' depends on values"):
        slot.run(["y"], {"x": rows(4), "k": np.array(1, np.int64)}, BATCHING)
