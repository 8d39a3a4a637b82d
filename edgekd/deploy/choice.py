"""Which file of a bundle another program is to load, and what has to be said about it."""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.errors import BundleError
from edgekd.runtime.engine_manifest import EngineEntry
from edgekd.runtime.manifest import Manifest

BACKENDS = ("onnxruntime", "openvino", "tensorrt")
_NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}


@dataclass(frozen=True)
class Choice:
    """A file of the bundle, the role it has, and what is to run it.

    ``precision`` is that of the bundle's deployment (``bf16``) or None. ``engine`` is the
    manifest's entry where the file is an engine. ``notes`` are sentences for the user.
    """

    file: str
    model: str
    backend: str
    precision: str | None = None
    engine: EngineEntry | None = None
    notes: tuple[str, ...] = ()


def choose(
    manifest: Manifest,
    backend: str | None = None,
    model: str | None = None,
    engine: str | None = None,
) -> Choice:
    """Choose by what the user asked for; what is left out follows the bundle.

    Without ``backend`` it is TensorRT where the bundle has an engine, else the runtime of the
    bundle's deployment. Without ``model`` it is the deployment's where that is for this backend,
    else ``compressed``. ``engine`` names one of several engines.

    Raises BundleError where the bundle has no such model or engine, or the backend cannot run it.
    """
    if model is not None and model not in manifest.models:
        have = ", ".join(sorted(manifest.models))
        raise BundleError(f"the bundle has no model {model!r}, only {have}")
    if engine is not None and backend not in (None, "tensorrt"):
        raise BundleError(f"{_NAMES[str(backend)]} runs no TensorRT engine: leave out --engine")
    deployment = manifest.deployment
    wanted = backend or _default_backend(manifest, model, engine)
    if wanted == "tensorrt":
        return _engine(manifest, model, engine)
    if wanted == "openvino" and manifest.target["runtime"] != "onnxruntime":
        raise BundleError(
            f"its graph is written for {manifest.target['runtime']}; OpenVINO would not compute it "
            "as that does: choose --backend onnxruntime, or compress for --target cpu"
        )
    follows = deployment.runtime == wanted and model in (None, deployment.model)
    role = model or (deployment.model if follows else "compressed")
    precision = deployment.precision if follows else None
    notes = [_about_deployment(manifest, role, wanted, follows=follows)]
    notes += _about_exits(manifest)
    return Choice(
        manifest.models[role], role, wanted, precision, notes=tuple(note for note in notes if note)
    )


def _default_backend(manifest: Manifest, model: str | None, engine: str | None) -> str:
    if engine is not None or _engines(manifest, model):
        return "tensorrt"
    if model not in (None, manifest.deployment.model):
        return "onnxruntime"
    return "openvino" if manifest.deployment.runtime == "openvino" else "onnxruntime"


def _engines(manifest: Manifest, model: str | None) -> list[EngineEntry]:
    """Return the engines of a model that Triton loads; those of TensorRT-RTX are not among them."""
    role = model or _engine_role(manifest)
    return [e for e in manifest.engines if e.model == role and e.binding == "tensorrt"]


def _engine_role(manifest: Manifest) -> str:
    deployment = manifest.deployment
    return deployment.model if deployment.runtime == "tensorrt" else "compressed"


def _engine(manifest: Manifest, model: str | None, name: str | None) -> Choice:
    entry = _find_engine(manifest, model, name)
    if entry.binding != "tensorrt":
        raise BundleError(
            f"{entry.file} is an engine of TensorRT-RTX, which Triton does not load: build one "
            "with TensorRT, or choose --backend onnxruntime"
        )
    if model not in (None, entry.model):
        raise BundleError(f"{entry.file} is an engine of the model {entry.model!r}, not {model!r}")
    gpus = ", ".join(entry.compute_capabilities)
    follows = (manifest.deployment.runtime, manifest.deployment.model) == ("tensorrt", entry.model)
    notes = [
        _about_deployment(manifest, entry.model, "tensorrt", follows=follows),
        f"the engine needs TensorRT {entry.version} on compute capability {gpus}, "
        f"{entry.platform}: take a Triton release that has it",
        *_about_exits(manifest),
    ]
    return Choice(
        entry.file,
        entry.model,
        "tensorrt",
        engine=entry,
        notes=tuple(note for note in notes if note),
    )


def _find_engine(manifest: Manifest, model: str | None, name: str | None) -> EngineEntry:
    if name is None:
        role = model or _engine_role(manifest)
        # One of TensorRT-RTX alone is found too: what is wrong with it can then be said.
        found = _engines(manifest, model) or [e for e in manifest.engines if e.model == role]
        what = f"engine of the model {role!r}"
    else:
        found = [entry for entry in manifest.engines if entry.file == name]
        what = f"engine {name!r}"
    if not found:
        have = ", ".join(entry.file for entry in manifest.engines) or "none"
        raise BundleError(
            f"the bundle has no {what} (engines: {have}); build one with edgekd build, or choose "
            "--backend onnxruntime"
        )
    if len(found) > 1:
        names = ", ".join(entry.file for entry in found)
        raise BundleError(f"the bundle has several engines: name one with --engine ({names})")
    return found[0]


def _about_deployment(manifest: Manifest, role: str, backend: str, *, follows: bool) -> str | None:
    if manifest.data.get("deployment") is None:
        return None
    chosen = manifest.deployment
    where = f"{_NAMES.get(chosen.runtime, chosen.runtime)}"
    where += f" ({chosen.precision})" if chosen.precision else ""
    if follows:
        return f"as compress chose: the {chosen.model} model on {where}"
    return (
        f"compress chose the {chosen.model} model on {where}; this is the {role} model on "
        f"{_NAMES[backend]}"
    )


def _about_exits(manifest: Manifest) -> list[str]:
    if manifest.cascade is None:
        return []
    return ["the bundle has early exits: this is the model without them"]
