"""Open a model of a bundle and call it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgekd.errors import BundleError, DataError
from edgekd.runtime.bundle import read_manifest, read_model
from edgekd.runtime.inputs import Inputs
from edgekd.runtime.manifest import Deployment, Manifest
from edgekd.runtime.onnxruntime import open_onnxruntime
from edgekd.runtime.openvino import open_openvino
from edgekd.runtime.tensors import one_line
from edgekd.spec import ModelSpec, TensorSpec

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

RUNTIMES = ("onnxruntime", "openvino")


def load(
    bundle: str | os.PathLike[str],
    model: str | None = None,
    *,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    providers: Sequence[Any] | None = None,
) -> Model:
    """Open a model of the bundle in the folder ``bundle``.

    ``load(bundle)`` opens what ``compress`` chose for the target by measurement (the manifest's
    ``deployment``), or the compressed model on ONNX Runtime where nothing was chosen. Give any of
    ``model`` (``compressed`` or ``baseline``), ``runtime``, ``precision`` or ``providers`` to
    decide yourself; what is left out is then ``compressed``, ``onnxruntime`` and ``f32``.

    ``runtime`` is ``onnxruntime`` or ``openvino``; ``precision`` is what float layers are computed
    in: ``f32``, or ``bf16`` on OpenVINO. ``threads`` is the number of threads of one call (None:
    the runtime's default, one for every core); ``providers`` are ONNX Runtime execution providers
    (None: the CPU).

    Every file of the bundle is checked against the manifest, and the model is opened from the
    same bytes that were hashed. Hashes prove that the bundle is intact, not who wrote it. The
    model is held in memory: models over 2 GB and external data are out of scope.

    Raises BundleError when the bundle is incomplete or altered, when the runtime is missing or
    cannot open the model, or when the model is not what the manifest says. Another runtime is
    never taken silently.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    if (model, runtime, precision, providers) == (None, None, None, None):
        choice = manifest.deployment
    else:
        choice = Deployment(model or "compressed", runtime or "onnxruntime", precision)
    content = read_model(folder, manifest, choice.model)
    try:
        session = _open(content, manifest.target["runtime"], choice, threads, providers)
        _check_signature(session, manifest.spec)
    except BundleError as error:
        raise BundleError(f"{folder}: {manifest.models[choice.model]}: {error}") from error
    return Model(session, manifest)


class Session(Protocol):
    """What a runtime gives: the model's own signature, and a call that is safe in threads."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, names: Sequence[str], feed: Mapping[str, Any]) -> Sequence[Any]:
        """Return the outputs ``names`` for input name -> array."""


class Model:
    """A model ready to be called, from any number of threads at once.

    ``spec`` says what goes in and comes out; ``manifest`` is all that the bundle says.
    """

    def __init__(self, session: Session, manifest: Manifest) -> None:
        self.manifest = manifest
        self.spec = manifest.spec
        self._session: Session | None = session
        self._inputs = Inputs(self.spec.inputs)
        self._outputs = [tensor.name for tensor in self.spec.outputs]

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
            outputs = session.run(self._outputs, feed)
        except Exception as error:  # the runtimes' errors have no base class in common
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
    content: bytes,
    target_runtime: str,
    choice: Deployment,
    threads: int | None,
    providers: Sequence[Any] | None,
) -> Session:
    if threads is not None and threads < 1:
        raise BundleError(f"threads must be 1 or more, not {threads}")
    if choice.runtime == "onnxruntime":
        if choice.precision not in (None, "f32"):
            raise BundleError(
                f"ONNX Runtime computes a model as it is written, not in {choice.precision}; "
                'for bf16 choose runtime="openvino"'
            )
        return open_onnxruntime(content, target_runtime, threads, providers)
    if choice.runtime != "openvino":
        raise BundleError(f"there is no runtime {choice.runtime!r}, only {', '.join(RUNTIMES)}")
    if providers is not None:
        raise BundleError("providers are ONNX Runtime's; leave them out for OpenVINO")
    if target_runtime != "onnxruntime":
        raise BundleError(
            f"its graph is written for {target_runtime}; OpenVINO would not compute it as that "
            'does: open it with runtime="onnxruntime", or compress for --target cpu'
        )
    return open_openvino(content, choice.precision, threads)


def _check_signature(session: Session, spec: ModelSpec) -> None:
    """Raise BundleError unless the model takes and gives what the manifest promises."""
    inputs = {tensor.name: tensor for tensor in session.inputs}
    outputs = {tensor.name: tensor for tensor in session.outputs}
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
