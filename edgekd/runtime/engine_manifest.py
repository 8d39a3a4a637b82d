"""What a manifest says about TensorRT engines, checked field by field, and where one may run."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.runtime.cuda import GpuMachine
from edgekd.runtime.fields import mapping, need, text

BINDINGS = ("tensorrt", "tensorrt_rtx")
COMPATIBILITIES = ("none", "ampere_plus", "same_compute_capability")
LARGEST_BATCH = 2**31 - 1  # TensorRT's dimensions are of 32 bits up to 8.6
_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,12}){1,4}(\.?[a-z]{1,12}[0-9]{0,12})?")
_CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]")


@dataclass(frozen=True)
class ShapeRange:
    """The shapes that an input may have: the smallest, the one it is fastest at, the largest."""

    smallest: tuple[int, ...]
    best: tuple[int, ...]
    largest: tuple[int, ...]


@dataclass(frozen=True)
class EngineEntry:
    """An engine: the file, what it was built from, and what it needs.

    ``model`` is the role of the manifest's ``models`` whose answers it gives; ``onnx`` the file it
    was built from. ``binding`` is ``tensorrt`` or ``tensorrt_rtx``, ``version`` that of the
    library. ``compute_capabilities`` are those it was built for (``8.7``), ``cuda`` is the newest
    CUDA of the driver there, None where it was built without a GPU. ``version_compatible`` and
    ``hardware_compatible`` are the builder's flags. ``shapes`` is keyed by input. ``dla_core`` is
    the accelerator it was built for, None for the GPU alone.
    """

    file: str
    model: str
    onnx: str
    binding: str
    version: str
    compute_capabilities: tuple[str, ...]
    cuda: str | None
    platform: str
    version_compatible: bool
    hardware_compatible: str
    shapes: Mapping[str, ShapeRange]
    dla_core: int | None = None

    def misfits(self, binding: str, version: str, machine: GpuMachine) -> list[str]:
        """Return what of this engine does not go with a machine, each naming both sides.

        Without ``version_compatible`` an engine runs on the very version that built it; with it, on
        the same major version, the same or newer. Without ``hardware_compatible`` it runs on its
        compute capability (NVIDIA, TensorRT developer guide, "Version Compatibility" and "Hardware
        Compatibility").
        """
        found = []
        if binding != self.binding:
            found.append(f"it is an engine of {self.binding}, here is {binding} {version}")
        elif not self._runs_on_version(version):
            found.append(f"it was built by TensorRT {self.version}, here is {version}")
        if machine.platform != self.platform:
            found.append(f"it was built for {self.platform}, this is {machine.platform}")
        if not self._runs_on_gpu(machine.compute_capability):
            built = ", ".join(self.compute_capabilities)
            found.append(
                f"it was built for compute capability {built}, {machine.name} has "
                f"{machine.compute_capability}"
            )
        if self.cuda is not None and _numbers(machine.cuda)[0] < _numbers(self.cuda)[0]:
            found.append(
                f"it was built under a driver for CUDA {self.cuda}, this one runs CUDA up to "
                f"{machine.cuda}"
            )
        return found

    @property
    def compatible(self) -> bool:
        """Tell whether it gives up speed to run on more than the version and GPU it is of."""
        return self.version_compatible or self.hardware_compatible != "none"

    def _runs_on_version(self, version: str) -> bool:
        if not self.version_compatible:
            return version == self.version
        here, built = _numbers(version), _numbers(self.version)
        return here[0] == built[0] and here >= built

    def _runs_on_gpu(self, capability: str) -> bool:
        if capability in self.compute_capabilities:
            return True
        return self.hardware_compatible == "ampere_plus" and _numbers(capability) >= (8, 0)


def parse_engines(
    value: object, files: Collection[str], models: Collection[str], inputs: Collection[str]
) -> tuple[EngineEntry, ...]:
    """Read the manifest's field ``engines``; raises BundleError that names the field."""
    if value is None:
        return ()
    need(isinstance(value, list), "engines", "a list")
    assert isinstance(value, list)
    return tuple(
        _engine(mapping(entry, f"engines[{i}]"), f"engines[{i}]", files, models, inputs)
        for i, entry in enumerate(value)
    )


def _engine(
    entry: Mapping[str, Any],
    name: str,
    files: Collection[str],
    models: Collection[str],
    inputs: Collection[str],
) -> EngineEntry:
    for key in ("file", "onnx"):
        need(_in(entry.get(key), files), f"{name}.{key}", "one of the files listed")
    need(_in(entry.get("model"), models), f"{name}.model", f"one of {', '.join(models)}")
    need(_in(entry.get("binding"), BINDINGS), f"{name}.binding", f"one of {', '.join(BINDINGS)}")
    compatible = entry.get("hardware_compatible")
    kinds = ", ".join(COMPATIBILITIES)
    need(_in(compatible, COMPATIBILITIES), f"{name}.hardware_compatible", f"one of {kinds}")
    need(_is(_VERSION, entry.get("version")), f"{name}.version", "a version like 10.3.0")
    gpus = entry.get("compute_capabilities")
    are_gpus = isinstance(gpus, list) and bool(gpus) and all(_is(_CAPABILITY, gpu) for gpu in gpus)
    need(are_gpus, f"{name}.compute_capabilities", "a list of numbers like 8.7, as texts")
    cuda = entry.get("cuda")
    need(cuda is None or _is(_VERSION, cuda), f"{name}.cuda", "a version like 12.6, or null")
    free = entry.get("version_compatible")
    need(isinstance(free, bool), f"{name}.version_compatible", "true or false")
    core = entry.get("dla_core")
    is_core = core is None or (type(core) is int and 0 <= core < 8)
    need(is_core, f"{name}.dla_core", "the number of an accelerator, or null")
    shapes = mapping(entry.get("shapes"), f"{name}.shapes")
    need(set(shapes) == set(inputs), f"{name}.shapes", f"keyed by the inputs {', '.join(inputs)}")
    return EngineEntry(
        entry["file"],
        entry["model"],
        entry["onnx"],
        entry["binding"],
        entry["version"],
        tuple(gpus),  # type: ignore[arg-type]  # checked above
        cuda,
        text(entry.get("platform"), f"{name}.platform"),
        bool(free),
        str(compatible),
        {
            key: _range(mapping(shapes[key], f"{name}.shapes.{key}"), f"{name}.shapes.{key}")
            for key in shapes
        },
        core,
    )


def _range(value: Mapping[str, Any], name: str) -> ShapeRange:
    shapes = [value.get(key) for key in ("min", "opt", "max")]
    for shape in shapes:
        right = isinstance(shape, list) and all(
            type(size) is int and 0 < size <= LARGEST_BATCH for size in shape
        )
        need(right, name, "three lists of positive whole numbers: min, opt, max")
    low, best, high = (tuple(shape) for shape in shapes)  # type: ignore[arg-type]  # checked above
    ordered = len(low) == len(best) == len(high) and all(
        a <= b <= c
        for a, b, c in zip(low, best, high)  # noqa: B905 - strict= needs Python 3.10
    )
    need(ordered, name, "min, opt and max of one rank, none smaller than the one before")
    return ShapeRange(low, best, high)


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _in(value: object, allowed: Collection[str]) -> bool:
    return isinstance(value, str) and value in allowed


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
