"""Check what a model is called with: fast when it fits, explained when it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import DataError
from edgekd.preprocessing import ImagePreprocessing
from edgekd.runtime import dlpack
from edgekd.spec import TensorSpec

if TYPE_CHECKING:
    import numpy.typing as npt


class Inputs:
    """The inputs of a model in call order; turns call arguments into ONNX Runtime's feed.

    A call costs about a microsecond per input: only what is no fitting array is looked at more
    closely. With ``gpu``, tensors on the GPU pass as they are, for the session to look at.
    """

    def __init__(self, specs: Sequence[TensorSpec], *, gpu: bool = False) -> None:
        self._gpu = gpu
        self._slots = tuple(_Slot(spec) for spec in specs)
        self._names = tuple(spec.name for spec in specs)

    def bind(self, arrays: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Return input name -> array.

        Tensors of other libraries are taken by DLPack. Raises DataError for another count or name,
        and for a dtype, rank or fixed axis that does not fit; nothing is converted silently.
        """
        if named or len(arrays) != len(self._slots):
            arrays = self._in_order(arrays, named)
        feed = {}
        for slot, array in zip(self._slots, arrays):  # noqa: B905 - strict= needs Python 3.10
            feed[slot.name] = array if slot.fits(array) else self._from_other(slot, array)
        return feed

    def _from_other(self, slot: _Slot, tensor: Any) -> Any:
        """Return the array of a tensor of another library, or raise DataError saying what is wrong.

        A tensor on the GPU is returned as it is, where that is allowed.
        """
        device = None if isinstance(tensor, np.ndarray) else dlpack.device_of(tensor)
        if device is None:
            raise DataError(explain(slot.spec, tensor))
        if device[0] == dlpack.GPU:
            if self._gpu:
                return tensor
            raise DataError(
                f"input {slot.name!r} is on the GPU, but this model does not run on TensorRT: copy "
                "it to the CPU first"
            )
        array = dlpack.as_numpy(tensor, slot.name)
        if not slot.fits(array):
            raise DataError(explain(slot.spec, array))
        return array

    def _in_order(self, arrays: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        """Return all arguments in call order, or raise DataError when some are amiss."""
        names = ", ".join(self._names)
        if arrays and named:
            raise DataError(f"give the inputs by position or by name ({names}), not both")
        if not named:
            raise DataError(
                f"the model takes {len(self._names)} inputs ({names}), not {len(arrays)}"
            )
        unknown = [name for name in named if name not in self._names]
        missing = [name for name in self._names if name not in named]
        if unknown or missing:
            wrong = (
                f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}"
            )
            raise DataError(f"the model's inputs are {names}; {wrong}")
        return [named[name] for name in self._names]


class _Slot:
    """One input, with what the fast check compares laid out beforehand."""

    __slots__ = ("dtype", "fixed", "name", "rank", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.dtype = np.dtype(spec.dtype)
        self.rank = len(spec.shape)
        self.fixed = tuple((i, size) for i, size in enumerate(spec.shape) if size is not None)

    def fits(self, array: Any) -> bool:
        if not isinstance(array, np.ndarray) or array.dtype != self.dtype:
            return False
        shape = array.shape
        if len(shape) != self.rank:
            return False
        for axis, size in self.fixed:  # noqa: SIM110 - a loop is twice as fast as all()
            if shape[axis] != size:
                return False
        return True


def explain(spec: TensorSpec, array: object) -> str:
    """Return the one line that says why ``array`` is not the input ``spec``, and what to do."""
    if not isinstance(array, np.ndarray):
        return f"input {spec.name!r} must be a numpy array, not {type(array).__name__}"
    if array.dtype != np.dtype(spec.dtype):
        hint = f"convert it with .astype(np.{spec.dtype})"
        if array.dtype == np.uint8:
            hint = "turn images into the network's input with model.preprocess(images)"
        return f"input {spec.name!r} must be {spec.dtype}, not {array.dtype}; {hint}"
    hint = ""
    if array.ndim == len(spec.shape) - 1:
        hint = "; add the batch axis with array[np.newaxis]"
    return f"the model's input is {spec}, which shape {array.shape} does not fit{hint}"


def zeros(
    specs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Return zeros to run a model on once, by input; free axes are 1 where ``shapes`` has none."""
    given = shapes or {}
    return {
        spec.name: np.zeros(
            given.get(spec.name, tuple(size or 1 for size in spec.shape)), np.dtype(spec.dtype)
        )
        for spec in specs
    }


def preprocess(
    steps: Mapping[str, ImagePreprocessing], images: npt.NDArray[np.uint8], name: str | None
) -> npt.NDArray[np.float32]:
    """Do ``steps`` of the input ``name``; None: of the only input that has any.

    Raises DataError when there is no such input, or the images do not fit.
    """
    if name is None and len(steps) == 1:
        (name,) = steps
    if name is None or name not in steps:
        have = ", ".join(steps) or "no input"
        raise DataError(f"the bundle has preprocessing for {have}; name one of these inputs")
    return steps[name](images)
