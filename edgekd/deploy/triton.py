"""``edgekd deploy triton``: a bundle as a model of NVIDIA's Triton Inference Server."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.deploy.choice import Choice, choose
from edgekd.deploy.folder import check_folder, write_folder
from edgekd.deploy.pbtxt import to_text
from edgekd.deploy.triton_config import LABELS_NAME, MODEL_FILES, Serving, config_of
from edgekd.deploy.triton_readme import readme_of
from edgekd.errors import BundleError
from edgekd.runtime.bundle import read_files
from edgekd.runtime.manifest import Manifest
from edgekd.runtime.trust import read_trusted_manifest

DEFAULT_MAX_BATCH = 8
LARGEST = 2**31 - 1  # Triton's max_batch_size is an int32
WARMUPS = ("none", "zero", "random")

# Triton takes the name from the folder and puts it into URLs; a version is a number behind it.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_LINE_BREAK = re.compile(r"[\r\n\v\f\x00]")


@dataclass(frozen=True)
class Deployed:
    """What was written: the folder, the file of the bundle and what runs it; notes for the user."""

    folder: Path
    choice: Choice
    max_batch: int
    device: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "folder": str(self.folder),
            "file": self.choice.file,
            "model": self.choice.model,
            "backend": self.choice.backend,
            "max_batch_size": self.max_batch,
            "device": self.device,
            "notes": list(self.notes),
        }


def deploy_triton(
    bundle: Path,
    repository: Path,
    *,
    name: str | None = None,
    backend: str | None = None,
    model: str | None = None,
    engine: str | None = None,
    max_batch: int | None = None,
    preferred_batch: Sequence[int] = (),
    queue_delay_us: int = 0,
    instances: int = 1,
    device: str | None = None,
    threads: int | None = None,
    warmup: str = "none",
) -> Deployed:
    """Write the bundle as ``repository/NAME``; other models in the repository stay as they are.

    The model file has the very bytes of the bundle, which are verified first. ``name`` is the
    bundle's where it is not given, with ``_`` for what Triton cannot take. ``backend``, ``model``
    and ``engine`` are those of ``choose``. ``max_batch`` 0 means that the client sends the batch
    axis itself; by default it is the engine's largest batch, 8, or 0 without a free batch axis.
    ``device`` is ``cpu`` or ``gpu``, by default where the target runs. ``threads`` of one call, by
    default those of the target.

    Raises BundleError when the bundle is not intact, something does not fit, or the folder holds
    files that were not written by this.
    """
    manifest = read_trusted_manifest(bundle)
    try:
        choice = choose(manifest, backend, model, engine)
        title = _safe_name(name, manifest)
        device = _device(device, choice, manifest)
        batch = _max_batch(max_batch, choice, manifest)
        preferred = tuple(preferred_batch) or _best_batch(choice, batch)
        wrong = [size for size in preferred if not 1 <= size <= batch]
        if wrong:
            raise BundleError(f"a batch of {wrong[0]} cannot be preferred: the largest is {batch}")
        threads = _threads(threads, manifest)
        serving = Serving(batch, preferred, queue_delay_us, instances, device, threads, warmup)
        labels, about_labels = _labels(manifest)
        labelled = manifest.spec.outputs[0].name if labels else None
        config = to_text(config_of(title, manifest, choice, serving, labelled))
    except BundleError as error:
        raise BundleError(f"{bundle}: {error}") from error
    notes = (*choice.notes, *about_labels, *_about_backend(manifest, choice, serving))
    check_folder(repository / title)
    model_file = MODEL_FILES[choice.backend]
    files = {
        "config.pbtxt": config.encode("ascii"),
        f"1/{model_file}": read_files(bundle, manifest, [choice.file])[choice.file],
        "README.md": readme_of(title, manifest, choice, serving, notes).encode("utf-8"),
    }
    if labels:
        files[LABELS_NAME] = labels.encode("utf-8")
    record = {"kind": "triton", "bundle": manifest.name, "file": choice.file}
    folder = write_folder(repository / title, files, record)
    return Deployed(folder, choice, batch, device, notes)


def _safe_name(name: str | None, manifest: Manifest) -> str:
    if name is not None:
        if _NAME.fullmatch(name) is None:
            raise BundleError(
                f"{name!r} cannot be the name of a model in Triton: use letters, digits, _, - "
                "and ., at most 100, not starting with - or ."
            )
        return name
    found = re.sub(r"[^A-Za-z0-9_.-]", "_", manifest.name).lstrip(".-")[:100]
    return found or "model"


def _device(device: str | None, choice: Choice, manifest: Manifest) -> str:
    if choice.backend == "tensorrt":
        if device == "cpu":
            raise BundleError("an engine of TensorRT runs on a GPU: leave out --device")
        return "gpu"
    if choice.backend == "openvino":
        if device == "gpu":
            raise BundleError("Triton's OpenVINO backend runs on CPUs: leave out --device")
        return "cpu"
    return device or ("cpu" if manifest.target["runtime"] == "onnxruntime" else "gpu")


def _max_batch(wanted: int | None, choice: Choice, manifest: Manifest) -> int:
    spec = manifest.spec
    fixed = [tensor for tensor in (*spec.inputs, *spec.outputs) if tensor.shape[:1] != (None,)]
    if fixed:
        if wanted:
            raise BundleError(
                f"{fixed[0]} has no free batch axis, so Triton cannot batch: leave out --max-batch"
            )
        return 0
    if choice.engine is None:
        return DEFAULT_MAX_BATCH if wanted is None else wanted
    largest = min(shape.largest[0] for shape in choice.engine.shapes.values())
    if wanted is not None and wanted > largest:
        raise BundleError(
            f"{choice.file} takes batches up to {largest}, not {wanted}: build it with a larger one"
        )
    return largest if wanted is None else wanted


def _best_batch(choice: Choice, max_batch: int) -> tuple[int, ...]:
    """Return the batch that an engine was tuned for; for others NVIDIA advises to prefer none."""
    if choice.engine is None:
        return ()
    best = min(shape.best[:1] for shape in choice.engine.shapes.values())
    return best if best and 1 < best[0] <= max_batch else ()


def _threads(threads: int | None, manifest: Manifest) -> int | None:
    if threads is not None:
        return threads
    found = manifest.target.get("threads")
    return found if type(found) is int and found > 0 else None


def _labels(manifest: Manifest) -> tuple[str, list[str]]:
    """Return ``labels.txt``, one class a line, or why there is none."""
    classes, outputs = manifest.classes, manifest.spec.outputs
    if not classes:
        return "", []
    if len(outputs) > 1 or outputs[0].shape[-1:] != (len(classes),):
        return "", [
            f"no labels: {outputs[0]} has not one number for each of {len(classes)} classes"
        ]
    if any(_LINE_BREAK.search(name) for name in classes):
        return "", ["no labels: a class has a line break in its name"]
    return "".join(f"{name}\n" for name in classes), []


def _about_backend(manifest: Manifest, choice: Choice, serving: Serving) -> list[str]:
    notes = []
    if choice.backend == "onnxruntime" and manifest.target["runtime"] != "onnxruntime":
        notes.append(
            f"the graph is written for {manifest.target['runtime']}: ONNX Runtime computes it as "
            "written, with its graph optimisations off, which is slow; an engine is for speed"
        )
    if choice.backend == "openvino" and choice.precision != "bf16":
        notes.append(
            "Triton's OpenVINO backend cannot be held to f32: on a processor with bf16 it may "
            "compute float layers in that"
        )
    if choice.engine is not None and serving.max_batch:
        least = max(shape.smallest[0] for shape in choice.engine.shapes.values())
        if least > 1:
            notes.append(f"the engine takes no batch below {least}: requests have to be as large")
    return notes
