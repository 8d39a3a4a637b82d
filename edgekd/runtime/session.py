"""Open a model of a bundle and call it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from edgekd.errors import BundleError, DataError, EdgekdError
from edgekd.runtime.bundle import read_files, read_model
from edgekd.runtime.cascade import Cascade, check_operating_point, segment_spec
from edgekd.runtime.choose import Choice, Wanted, choose, takes_exits
from edgekd.runtime.closing import Closing, closed
from edgekd.runtime.inputs import Inputs, preprocess, zeros
from edgekd.runtime.manifest import Deployment, Manifest
from edgekd.runtime.opening import Session, check_signature, open_session
from edgekd.runtime.tensorrt import TensorRTSession, open_engine
from edgekd.runtime.tensors import one_line
from edgekd.runtime.trust import Trust, read_trusted_manifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@overload
def load(
    bundle: str | os.PathLike[str],
    model: str,
    *,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    providers: Sequence[Any] | None = None,
    fallback: str | None = None,
    contexts: int | None = None,
    trust: Trust | None = None,
) -> Model: ...


@overload
def load(
    bundle: str | os.PathLike[str],
    model: None = None,
    *,
    operating_point: str,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    providers: Sequence[Any] | None = None,
    fallback: str | None = None,
    contexts: int | None = None,
    trust: Trust | None = None,
) -> Cascade: ...


@overload
def load(
    bundle: str | os.PathLike[str],
    model: str | None = None,
    *,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    providers: Sequence[Any] | None = None,
    operating_point: str | None = None,
    fallback: str | None = None,
    contexts: int | None = None,
    trust: Trust | None = None,
) -> Model | Cascade: ...


def load(
    bundle: str | os.PathLike[str],
    model: str | None = None,
    *,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    providers: Sequence[Any] | None = None,
    operating_point: str | None = None,
    fallback: str | None = None,
    contexts: int | None = None,
    trust: Trust | None = None,
) -> Model | Cascade:
    """Open a model of the bundle in the folder ``bundle``.

    ``load(bundle)`` opens what ``compress`` and ``build`` chose: where the bundle has TensorRT
    engines, the one that fits this machine; else a model with early exits at its default operating
    point, on ONNX Runtime, if samples leave there; else the manifest's ``deployment``; else the
    compressed model on ONNX Runtime. So a bundle for TensorRT without engines opens its ONNX model,
    on the CPU. ``model`` (``compressed`` or ``baseline``, both without exits) alone opens that
    one's engine, or it on ONNX Runtime where there is none. With any of ``runtime``, ``precision``
    or ``providers`` you decide yourself; what is left out is then ``compressed``, ``onnxruntime``
    and ``f32``. ``operating_point`` names the thresholds to leave by; the exits then run on the
    runtime that is given.

    ``runtime`` is ``onnxruntime``, ``onnxruntime-cuda`` (its CUDA provider), ``openvino`` or
    ``tensorrt``; ``precision`` is what float layers are computed in: ``f32``, or ``bf16`` on
    OpenVINO. ``threads`` is the number of threads of one call on a CPU (None: the runtime's
    default, one for every core); ``providers`` are ONNX Runtime execution providers (None: the
    CPU). ``contexts`` is how many calls run at once on an engine (None: 4); further ones wait.

    No runtime takes the place of another, unless ``fallback="onnx"`` allows it: the ONNX model then
    runs where no engine does, on ONNX Runtime's CUDA provider where it has one and a driver works,
    else on the CPU. ``Model.runtime`` and ``Model.describe()`` tell what is used.

    Every file of the bundle is checked against the manifest, and the model is opened from the
    same bytes that were hashed. Hashes prove that the bundle is intact, not who wrote it: ``trust``
    does, the PEM file of a public key (or its bytes, or several). The manifest's signature must
    then be by one of them, before anything else of the bundle is read. ``trust.py`` says what
    EDGEKD_TRUST and EDGEKD_REQUIRE_SIGNATURE do. The model is held in memory: models over 2 GB and
    external data are out of scope.

    Raises BundleError when the bundle is incomplete or altered, when the runtime is missing or
    cannot open the model, when no engine fits the machine (the line names both sides, and the
    command that builds one), when the model is not what the manifest says, or when it has no such
    operating point; TrustError, which is a BundleError, when ``trust`` does not hold.
    """
    folder = Path(bundle)
    manifest = read_trusted_manifest(folder, trust)
    wanted = Wanted(model, runtime, precision, providers, fallback)
    if operating_point is not None or takes_exits(manifest, wanted):
        if model is not None:
            raise BundleError(f"the model {model!r} has no exits: leave out operating_point")
        what = Deployment("compressed", runtime or "onnxruntime", precision)
        return _load_cascade(folder, manifest, operating_point, what, threads, providers)
    choice = choose(folder, manifest, wanted)
    if choice.engine is not None:
        content = read_files(folder, manifest, [choice.engine.file])[choice.engine.file]
        file = choice.engine.file
    else:
        content = read_model(folder, manifest, choice.what.model)
        file = manifest.models[choice.what.model]
    try:
        session = _open(content, manifest, choice, threads, providers, contexts)
        check_signature(session, manifest.spec)
    except BundleError as error:
        raise BundleError(f"{folder}: {file}: {error}") from error
    return Model(session, manifest, choice)


def _open(
    content: bytes,
    manifest: Manifest,
    choice: Choice,
    threads: int | None,
    providers: Sequence[Any] | None,
    contexts: int | None,
) -> Session:
    if choice.engine is not None:
        return open_engine(content, choice.engine, manifest.spec, contexts)
    return open_session(content, manifest.target["runtime"], choice.what, threads, providers)


def _load_cascade(
    folder: Path,
    manifest: Manifest,
    point: str | None,
    choice: Deployment,
    threads: int | None,
    providers: Sequence[Any] | None,
) -> Cascade:
    cascade = manifest.cascade
    if cascade is None:
        raise BundleError(
            f"{folder}: the bundle has no early exits, so no operating point {point!r}"
        )
    if choice.runtime == "tensorrt":
        raise BundleError(
            f"{folder}: early exits are run segment by segment, and segments have no engines: "
            "leave out operating_point, or take another runtime"
        )
    name = cascade.default if point is None else point
    check_operating_point(cascade, name)
    content = read_files(folder, manifest, [segment.file for segment in cascade.segments])
    sessions = []
    for index, segment in enumerate(cascade.segments):
        runtime = manifest.target["runtime"]
        try:
            session = open_session(
                content[segment.file], runtime, choice, threads, providers, one_of_several=True
            )
            check_signature(session, segment_spec(session, manifest.spec, cascade, index))
        except BundleError as error:
            raise BundleError(f"{folder}: {segment.file}: {error}") from error
        sessions.append(session)
    return Cascade(sessions, manifest, name)


class Model(Closing):
    """A model ready to be called, from any number of threads at once.

    ``spec`` says what goes in and comes out; ``manifest`` is all that the bundle says; ``runtime``
    is what runs it: ``onnxruntime``, ``onnxruntime-cuda``, ``openvino`` or ``tensorrt``.
    """

    def __init__(self, session: Session, manifest: Manifest, choice: Choice) -> None:
        self.manifest = manifest
        self.spec = manifest.spec
        self.runtime = choice.what.runtime
        self._choice = choice
        self._session: Session | None = session
        self._inputs = Inputs(self.spec.inputs, gpu=self.runtime == "tensorrt")
        self._outputs = [tensor.name for tensor in self.spec.outputs]

    def __call__(self, /, *arrays: Any, **named: Any) -> Any:
        """Run the model on its inputs, by position (``model(a, b)``) or by name (``model(x=a)``).

        Takes arrays of exactly the dtypes and fixed axes of ``spec``: images are float32 as
        ``preprocess`` returns them. Returns the output array, or output name -> array when the
        model has several outputs. Arrays are numpy's, or tensors of another library on the CPU,
        which are read without a copy. An engine also takes tensors on the GPU (``__dlpack__``); if
        any input is one, outputs are GpuArrays there.

        Raises DataError when the inputs do not fit, BundleError after ``close``.
        """
        session = self._session  # a local, so that close() in another thread cannot break a call
        if session is None:
            raise closed()
        feed = self._inputs.bind(arrays, named)
        try:
            outputs = session.run(self._outputs, feed)
        except EdgekdError:
            raise
        except Exception as error:  # the runtimes' errors have no base class in common
            raise DataError(f"the model cannot run on this input: {one_line(error)}") from error
        if len(outputs) == 1:
            return outputs[0]
        return dict(zip(self._outputs, outputs))  # noqa: B905 - strict= needs Python 3.10

    def warmup(self) -> None:
        """Run once on zeros, so that the first call of yours is as fast as the rest.

        Free axes are 1; an engine gets the shapes it is fastest at, and makes and runs all of its
        contexts. Raises what a call raises.
        """
        session = self._session
        if session is None:
            raise closed()
        if isinstance(session, TensorRTSession):
            session.warm_up(self._outputs, zeros(self.spec.inputs, session.best_shapes()))
        else:
            self(**zeros(self.spec.inputs))

    def describe(self) -> str:
        """Say in one line which model runs on what, and what that takes the place of."""
        return self._choice.describe()

    def preprocess(
        self, images: npt.NDArray[np.uint8], name: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Turn a batch of uint8 images into the model's float32 input ``(N, C, H, W)``.

        ``name`` is the input, needed only when several inputs are images. Raises DataError when
        the bundle has no preprocessing for it, or the images do not fit.
        """
        return preprocess(self.manifest.preprocessing, images, name)

    def close(self) -> None:
        """Free the model's memory as soon as running calls are done; closing twice is fine.

        Calls that come later, or that wait for a context of the engine, raise BundleError.
        """
        session, self._session = self._session, None
        if isinstance(session, TensorRTSession):
            session.close()
