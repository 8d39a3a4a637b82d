"""Decide what ``load`` opens: by what the caller wants, the bundle has and the machine can do."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekd.errors import BundleError
from edgekd.runtime import tensorrt
from edgekd.runtime.cuda import GpuMachine
from edgekd.runtime.engine_manifest import BINDINGS, EngineEntry
from edgekd.runtime.manifest import Deployment, Manifest
from edgekd.runtime.opening import import_onnxruntime

FALLBACKS = ("onnx",)
_RUNTIMES = {
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-cuda": "ONNX Runtime with CUDA",
    "openvino": "OpenVINO",
}


@dataclass(frozen=True)
class Wanted:
    """What the caller of ``load`` says about what to open; None: nothing."""

    model: str | None = None
    runtime: str | None = None
    precision: str | None = None
    providers: Sequence[Any] | None = None
    fallback: str | None = None

    def __post_init__(self) -> None:
        if self.fallback not in (None, *FALLBACKS):
            raise BundleError(f'there is no fallback {self.fallback!r}, only "onnx"')


@dataclass(frozen=True)
class Choice:
    """What is to be opened: ``what``, ``engine`` of the bundle where that is TensorRT.

    ``instead`` says why it is not the TensorRT that was to run, None where nothing was replaced.
    ``providers`` are the names of those that the caller wants.
    """

    what: Deployment
    engine: EngineEntry | None = None
    instead: str | None = None
    providers: Sequence[str] = ()

    def describe(self) -> str:
        """Say in one line which model runs on what."""
        what = self.what
        if self.engine is not None:
            engine = self.engine
            place = f"TensorRT {engine.version} ({engine.file})"
        else:
            used = [what.precision] if what.precision else self.providers
            place = _RUNTIMES[what.runtime] + (f" ({', '.join(used)})" if used else "")
        instead = "" if self.instead is None else f", instead of TensorRT: {self.instead}"
        return f"the {what.model} model on {place}{instead}"


def takes_exits(manifest: Manifest, wanted: Wanted) -> bool:
    """Tell whether the early exits are to be opened where no operating point is named."""
    said = (wanted.model, wanted.runtime, wanted.precision, wanted.providers)
    cascade = manifest.cascade
    has_exits = said == (None,) * 4 and cascade is not None and cascade.leaves_by_default
    return has_exits and _first_choice(manifest, wanted).runtime != "tensorrt"


def choose(folder: os.PathLike[str], manifest: Manifest, wanted: Wanted) -> Choice:
    """Return what is to be opened of the bundle in ``folder``.

    A runtime that is named is taken. Else it is TensorRT where the bundle has an engine of the
    model, and where it has none what the manifest deploys, for a model that is named ONNX Runtime.
    Another one takes the place of TensorRT only with ``fallback``.

    Raises BundleError that names both sides where no engine runs here.
    """
    what = _first_choice(manifest, wanted)
    if what.runtime != "tensorrt":
        names = [p if isinstance(p, str) else str(p[0]) for p in wanted.providers or ()]
        return Choice(what, providers=names)
    if wanted.providers is not None or wanted.precision is not None:
        raise BundleError(
            "an engine has its precisions built in and needs no providers: leave both out for "
            "TensorRT"
        )
    engines = [engine for engine in manifest.engines if engine.model == what.model]
    try:
        return Choice(what, fitting_engine(engines, tensorrt.look))
    except BundleError as error:
        if wanted.fallback is None:
            raise BundleError(f"{folder}: {error}; {_what_to_do(folder, manifest)}") from error
        runtime = "onnxruntime-cuda" if import_onnxruntime().has_cuda() else "onnxruntime"
        return Choice(Deployment(what.model, runtime), None, str(error))


def _what_to_do(folder: os.PathLike[str], manifest: Manifest) -> str:
    target = str(manifest.target["name"])
    if manifest.target["runtime"] != "tensorrt":
        return f"it is for {target}, so compress for a target with TensorRT (edgekd targets)"
    command = f"edgekd build {shlex.quote(os.fspath(folder))} --target {shlex.quote(target)}"
    return (
        f'build an engine where it is to run: {command} (or fallback="onnx" runs the ONNX model '
        "instead)"
    )


def fitting_engine(
    engines: Sequence[EngineEntry],
    look: Callable[[Sequence[str]], tuple[GpuMachine, Mapping[str, str]]],
) -> EngineEntry:
    """Return the engine that runs on this machine, the fastest kind first.

    ``look`` tells what the machine is and the versions of bindings, as ``tensorrt.look`` does; it
    is not asked where there is no engine. Raises BundleError that says of each what does not go
    together.
    """
    if not engines:
        raise BundleError("the bundle has no TensorRT engine of this model")
    names = [name for name in BINDINGS if any(e.binding == name for e in engines)]
    machine, versions = look(names)
    reasons = []
    for engine in sorted(engines, key=lambda engine: engine.compatible):
        # Where its binding is not here, the one that is says which side is wrong.
        binding = engine.binding if engine.binding in versions else next(iter(versions))
        misfits = engine.misfits(binding, versions[binding], machine)
        if not misfits:
            return engine
        reasons.append(f"{engine.file} does not run here: {', '.join(misfits)}")
    raise BundleError("; ".join(reasons))


def _first_choice(manifest: Manifest, wanted: Wanted) -> Deployment:
    """Return what is wanted if the machine can do it."""
    said = (wanted.model, wanted.runtime, wanted.precision, wanted.providers)
    if wanted.runtime is None and wanted.precision is None and wanted.providers is None:
        role = wanted.model or manifest.deployment.model
        if any(engine.model == role for engine in manifest.engines):
            return Deployment(role, "tensorrt")
    if said == (None,) * 4:
        return manifest.deployment
    return Deployment(
        wanted.model or "compressed", wanted.runtime or "onnxruntime", wanted.precision
    )
