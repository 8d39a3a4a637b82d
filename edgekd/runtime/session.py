"""Open a model of a bundle and call it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime as ort

from edgekd.errors import BundleError, DataError
from edgekd.runtime.bundle import read_manifest, read_model
from edgekd.runtime.inputs import Inputs
from edgekd.runtime.manifest import Manifest
from edgekd.runtime.options import session_options
from edgekd.runtime.tensors import describe, one_line
from edgekd.spec import ModelSpec, TensorSpec

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

_NOTHING = 4  # ONNX Runtime's severity: above what a failed run reports


def load(
    bundle: str | os.PathLike[str],
    model: str = "compressed",
    *,
    threads: int | None = None,
    providers: Sequence[Any] | None = None,
) -> Model:
    """Open ``model`` (``compressed`` or ``baseline``) of the bundle in the folder ``bundle``.

    Every file of the bundle is checked against the manifest, and the model is opened from the
    same bytes that were hashed. Hashes prove that the bundle is intact, not who wrote it. The
    model is held in memory: models over 2 GB and external data are out of scope.

    ``threads`` is the number of threads of one call (None: ONNX Runtime's default, one for every
    core); ``providers`` are ONNX Runtime execution providers (None: the CPU).

    Raises BundleError when the bundle is incomplete or altered, when ONNX Runtime cannot open the
    model, or when the model is not what the manifest says.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    content = read_model(folder, manifest, model)
    try:
        session = _open(content, manifest.target["runtime"], threads, providers)
        _check_signature(session, manifest.spec)
    except BundleError as error:
        raise BundleError(f"{folder}: {manifest.models[model]}: {error}") from error
    return Model(session, manifest)


class Model:
    """A model ready to be called, from any number of threads at once.

    ``spec`` says what goes in and comes out; ``manifest`` is all that the bundle says.
    """

    def __init__(self, session: Any, manifest: Manifest) -> None:
        self.manifest = manifest
        self.spec = manifest.spec
        self._session = session
        self._inputs = Inputs(self.spec.inputs)
        self._outputs = [tensor.name for tensor in self.spec.outputs]
        self._run_options = ort.RunOptions()
        self._run_options.log_severity_level = _NOTHING  # a failed run raises, it need not log

    def __call__(self, /, *arrays: Any, **named: Any) -> Any:
        """Run the model on its inputs, by position (``model(a, b)``) or by name (``model(x=a)``).

        Takes numpy arrays of exactly the dtypes and fixed axes of ``spec``: images are float32 as
        ``preprocess`` returns them. Returns the output array, or output name -> array when the
        model has several outputs.

        Raises DataError when the inputs do not fit, BundleError after ``close``.
        """
        session = self._session  # a local, so that close() in another thread cannot break a call
        if session is None:
            raise BundleError("this model is closed; load the bundle again")
        feed = self._inputs.bind(arrays, named)
        try:
            outputs = session.run(self._outputs, feed, self._run_options)
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            raise DataError(f"the model cannot run on this input: {one_line(error)}") from error
        if len(outputs) == 1:
            return outputs[0]
        return dict(zip(self._outputs, outputs))  # noqa: B905 - strict= needs Python 3.10

    def preprocess(
        self, images: npt.NDArray[np.uint8], name: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Turn a batch of uint8 images into the model's float32 input ``(N, C, H, W)``.

        ``name`` is the input, needed only when several inputs are images. Raises DataError when
        the bundle has no preprocessing for it, or the images do not fit.
        """
        steps = self.manifest.preprocessing
        if name is None and len(steps) == 1:
            (name,) = steps
        if name is None or name not in steps:
            have = ", ".join(steps) or "no input"
            raise DataError(f"the bundle has preprocessing for {have}; name one of these inputs")
        return steps[name](images)

    def close(self) -> None:
        """Free the model's memory as soon as running calls are done; closing twice is fine."""
        self._session = None

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _open(
    content: bytes, target_runtime: str, threads: int | None, providers: Sequence[Any] | None
) -> Any:
    options = session_options(target_runtime)
    if threads is not None:
        if threads < 1:
            raise BundleError(f"threads must be 1 or more, not {threads}")
        options.intra_op_num_threads = threads
    try:
        return ort.InferenceSession(content, options, providers=_available(providers))
    except BundleError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise BundleError(f"ONNX Runtime cannot open it: {one_line(error)}") from error


def _available(providers: Sequence[Any] | None) -> list[Any]:
    """Refuse what is not there: ONNX Runtime would warn and quietly run on the CPU instead."""
    if providers is None:
        return ["CPUExecutionProvider"]
    have = ort.get_available_providers()
    names = [entry if isinstance(entry, str) else entry[0] for entry in providers]
    missing = [name for name in names if name not in have]
    if missing:
        raise BundleError(f"this onnxruntime has no {', '.join(missing)}; it has {', '.join(have)}")
    return list(providers)


def _check_signature(session: Any, spec: ModelSpec) -> None:
    """Raise BundleError unless the model takes and gives what the manifest promises."""
    inputs = {tensor.name: tensor for tensor in map(describe, session.get_inputs())}
    outputs = {tensor.name: tensor for tensor in map(describe, session.get_outputs())}
    extra = set(inputs) - {tensor.name for tensor in spec.inputs}
    if extra:
        raise BundleError(f"the model also needs {', '.join(sorted(extra))}, not in the manifest")
    for wanted in spec.inputs:
        found = inputs.get(wanted.name)
        if found is None or not _accepts(found, wanted):
            raise BundleError(f"the manifest promises {wanted}, the model takes {found or 'none'}")
    for wanted in spec.outputs:
        found = outputs.get(wanted.name)
        if found is None or not _may_give(found, wanted):
            raise BundleError(f"the manifest promises {wanted}, the model gives {found or 'none'}")


def _accepts(found: TensorSpec, wanted: TensorSpec) -> bool:
    """Return whether an input takes everything that the manifest allows."""
    return (
        found.dtype == wanted.dtype
        and len(found.shape) == len(wanted.shape)
        and all(a is None or a == b for a, b in zip(found.shape, wanted.shape))  # noqa: B905
    )


def _may_give(found: TensorSpec, wanted: TensorSpec) -> bool:
    """Return whether an output can be what the manifest says; a model may leave shapes open."""
    if found.dtype != wanted.dtype or not found.shape:
        return found.dtype == wanted.dtype
    return len(found.shape) == len(wanted.shape) and all(
        a is None or b is None or a == b
        for a, b in zip(found.shape, wanted.shape)  # noqa: B905 - strict= needs Python 3.10
    )
