"""DLPack for real, with tensors of numpy and PyTorch on the CPU: layout, dtypes, and who frees."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from host_cuda import compile_driver, count
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgekd.errors import DataError
from edgekd.runtime import dlpack, load
from edgekd.runtime.cuda import Cuda
from edgekd.runtime.dlpack import CPU, GPU, Borrowed, GpuArray

DTYPES = [
    np.dtype(name)
    for name in (
        *("float16", "float32", "float64", "bool"),
        *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
    )
]


@st.composite
def views(draw: st.DrawFn) -> np.ndarray:
    """Arrays of all dtypes, and views of them: steps, backwards, swapped axes, empty, scalars."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    array = np.zeros(shape, draw(st.sampled_from(DTYPES)))
    if array.ndim:
        order = draw(st.permutations(range(array.ndim)))
        steps = draw(st.lists(st.sampled_from([1, 1, 2, -1]), max_size=array.ndim))
        array = array.transpose(order)[tuple(slice(None, None, step) for step in steps)]
    return array


class New:
    """A tensor that gives the versioned capsule of DLPack 1."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack__(self) -> Any:
        return self.array.__dlpack__(max_version=(1, 0))

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@given(array=views(), new=st.booleans())
def test_an_array_of_numpy_is_found_where_it_is(array: np.ndarray, new: bool) -> None:
    before = sys.getrefcount(array)
    borrowed = Borrowed(New(array) if new else array, "x")
    assert borrowed.shape == array.shape
    assert borrowed.dtype == array.dtype.name
    assert borrowed.device == (CPU, 0)
    assert borrowed.address == array.__array_interface__["data"][0]
    assert borrowed.contiguous == array.flags.c_contiguous
    assert sys.getrefcount(array) > before
    del borrowed
    assert sys.getrefcount(array) == before  # its deleter was called, and once


@given(array=views(), new=st.booleans())
def test_a_tensor_of_pytorch_likewise(array: np.ndarray, new: bool) -> None:
    positive = array.copy() if any(step < 0 for step in array.strides) else array
    tensor = torch.from_numpy(np.atleast_1d(positive))
    borrowed = Borrowed(New(tensor) if new else tensor, "x")
    assert borrowed.shape == tuple(tensor.shape)
    assert f"torch.{borrowed.dtype}" == str(tensor.dtype)
    assert borrowed.address == tensor.data_ptr()
    assert borrowed.contiguous == tensor.is_contiguous()


@pytest.mark.parametrize("new", [False, True])
def test_memory_lives_as_long_as_it_is_borrowed(new: bool) -> None:
    storage = np.arange(6, dtype=np.float32)
    gone = weakref.ref(storage)
    borrowed = Borrowed(New(storage) if new else storage, "x")
    del storage
    gc.collect()
    assert gone() is not None
    del borrowed
    gc.collect()
    assert gone() is None


def test_what_numpy_has_no_dtype_for_is_named() -> None:
    assert Borrowed(torch.zeros(2, dtype=torch.bfloat16), "x").dtype == "bfloat16"
    assert Borrowed(torch.zeros(2, dtype=torch.complex64), "x").dtype == "complex64"


def test_what_gives_no_memory_is_refused_in_one_line() -> None:
    class Taken:
        def __dlpack__(self) -> Any:
            capsule = np.zeros(3).__dlpack__()
            Once(capsule)
            return capsule

    class Once:
        def __init__(self, capsule: Any) -> None:
            self.capsule = capsule
            np.from_dlpack(self)

        def __dlpack__(self, **_: Any) -> Any:
            return self.capsule

        def __dlpack_device__(self) -> tuple[int, int]:
            return CPU, 0

    with pytest.raises(DataError, match="input 'x' gives no tensor of DLPack that is still"):
        Borrowed(Taken(), "x")
    with pytest.raises(DataError, match="input 'x' does not give its memory away: Can't export"):
        Borrowed(torch.zeros(2, requires_grad=True), "x")


class Owner:
    """Gives memory of the CPU with our own capsule, as GpuArray gives that of a GPU."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = np.ascontiguousarray(array).reshape(array.shape)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CPU, 0

    def __dlpack__(self, **_: Any) -> Any:
        array = self.array
        return dlpack.export(self, array.ctypes.data, array.shape, array.dtype, (CPU, 0))


@given(array=views(), take=st.sampled_from(["numpy", "torch", "nobody"]))
def test_what_is_given_away_is_the_same_and_freed_once(array: np.ndarray, take: str) -> None:
    owner = Owner(array)
    gone, before = weakref.ref(owner), len(dlpack._exported)
    capsule: Any = None
    taken: Any = None
    if take == "numpy":
        taken = np.from_dlpack(owner)
        np.testing.assert_array_equal(taken, array)
        assert (taken.shape, taken.dtype) == (array.shape, array.dtype)
    elif take == "torch":
        taken = torch.from_dlpack(owner)
        assert tuple(taken.shape) == array.shape
        if array.size:
            assert taken.data_ptr() == owner.array.ctypes.data
    else:
        capsule = owner.__dlpack__()
    del owner
    assert gone() is not None and len(dlpack._exported) == before + 1
    del taken, capsule
    assert gone() is None and len(dlpack._exported) == before


def test_many_threads_give_and_take() -> None:
    before = len(dlpack._exported)

    def work(value: int) -> None:
        for _ in range(300):
            taken = torch.from_dlpack(Owner(np.full(7, value, np.int64)))
            assert int(taken.sum()) == 7 * value

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(dlpack._exported) == before


def test_memory_of_the_gpu_is_freed_when_the_last_user_is_gone(tmp_path: Path) -> None:
    """Where the "GPU" is the CPU's memory, so that numpy can read what was given away."""
    library = compile_driver(tmp_path)
    array = GpuArray(Cuda(library), (2, 3), "float32")
    assert (array.nbytes, array.__dlpack_device__()) == (24, (GPU, 0))
    assert array.numpy().shape == (2, 3)
    borrowed = Borrowed(array, "x")
    assert (borrowed.device, borrowed.dtype, borrowed.shape) == ((GPU, 0), "float32", (2, 3))
    assert borrowed.address == array.address and borrowed.contiguous
    with pytest.raises(BufferError, match="only given as it is"):
        array.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="only given as it is"):
        array.__dlpack__(dl_device=(CPU, 0))
    del array
    assert count(library, "allocations") == 1
    del borrowed
    assert [count(library, what) for what in ("allocations", "streams")] == [0, 0]


# A model takes tensors of other libraries.


def test_a_tensor_on_the_cpu_is_an_input_without_a_copy(bundle: Path, pair_bundle: Path) -> None:
    model, x = load(bundle), torch.randn(4, 3, 2, 2)
    np.testing.assert_array_equal(model(x), model(x.numpy()))
    np.testing.assert_array_equal(model(x=x[::2]), model(x.numpy()[::2]))  # not in rows
    assert np.shares_memory(model._inputs.bind((x,), {})["x"], x.numpy())
    a = torch.ones(2, 3)
    np.testing.assert_array_equal(load(pair_bundle)(a, np.ones((2, 3), np.float32))["gap"], 0)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(4, 3, 2, 2, dtype=torch.float64), "must be float32, not float64"),
        (torch.zeros(3, 2, 2), "add the batch axis"),
        (torch.zeros(4, 3, 2, 2, requires_grad=True), "cannot be read as an array: Can't export"),
        (torch.zeros(4, 3, 2, 2, dtype=torch.bfloat16), "cannot be read as an array"),
        (torch.zeros(4, 3, 2, 2, device="meta"), "must be a numpy array, not Tensor"),
    ],
)
def test_a_tensor_that_does_not_fit_is_explained(bundle: Path, tensor: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(bundle)(tensor)
    assert "\n" not in str(caught.value)


def test_a_tensor_on_the_gpu_needs_an_engine(bundle: Path) -> None:
    class OnTheGpu(Owner):
        def __dlpack_device__(self) -> tuple[int, int]:
            return GPU, 0

    with pytest.raises(DataError, match="input 'x' is on the GPU, but this model does not run on"):
        load(bundle)(OnTheGpu(np.zeros((4, 3, 2, 2), np.float32)))
