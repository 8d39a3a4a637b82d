"""What a gate compares: a bundle's deployed model, or an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekd.bench.runner import Variant
from edgekd.errors import MeasurementError, NoVerdictError
from edgekd.runtime import Manifest
from edgekd.runtime.bundle import verify_models
from edgekd.runtime.trust import read_trusted_manifest

_ENGINES = (".engine", ".plan", ".trt")


@dataclass(frozen=True)
class Subject:
    """``path`` as given, the file to time and how to run it; ``manifest`` of a bundle only.

    ``has_exits`` tells that production leaves early there, while a gate times the whole model.
    """

    path: Path
    variant: Variant
    manifest: Manifest | None = None

    @property
    def size(self) -> int:
        """The bytes of the model's file."""
        return self.variant.path.stat().st_size

    @property
    def has_exits(self) -> bool:
        """Whether samples leave early in production."""
        cascade = None if self.manifest is None else self.manifest.cascade
        return cascade is not None and cascade.leaves_by_default


def open_subject(path: Path) -> Subject:
    """Return what to compare at ``path``; a bundle's files are checked against its manifest.

    Raises BundleError for a bundle that is not whole, MeasurementError for a file that is not
    there or an engine, NoVerdictError for a bundle whose graph is for a runtime that is not here.
    """
    if path.is_dir():
        manifest = read_trusted_manifest(path)
        verify_models(path, manifest)
        written_for = manifest.target["runtime"]
        if written_for != "onnxruntime":
            raise NoVerdictError(
                f"{path}: its graph is for {written_for}, about which times of ONNX Runtime on "
                "this processor would say nothing; gate a bundle for a CPU target"
            )
        chosen = manifest.deployment
        file = path / manifest.models[chosen.model]
        return Subject(path, Variant(file, chosen.runtime, chosen.precision), manifest)
    if not path.is_file():
        raise MeasurementError(f"there is no bundle or ONNX file {path}")
    if path.suffix.lower() in _ENGINES:
        raise MeasurementError(
            f"{path}: this version cannot time TensorRT engines; give a bundle or an ONNX file"
        )
    return Subject(path, Variant(path))
