"""What a target device can do: profiles shipped with edgekd, or the user's own YAML file."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from edgekd.errors import ProfileError
from edgekd.settings import Settings, SettingsError, nearest, read

Runtime = Literal["onnxruntime", "tensorrt"]
UsableRuntime = Literal["onnxruntime", "openvino", "tensorrt"]
Arithmetic = Literal["float32", "tf32", "bfloat16", "float16", "fp8", "int8", "int4", "fp4"]
FloatType = Literal["float32", "float16"]
LayerNorm = Literal["operator", "decomposed"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]
SparsePattern = Annotated[str, Field(pattern=r"^(unstructured|block|[1-9]\d?:[1-9]\d?)$")]
Count = Annotated[int, Field(ge=1, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]
Version = Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")]
Flag = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]


class PowerMode(Settings):
    """A power mode of a Jetson: its number there and its budget in watts (None: no limit)."""

    id: Annotated[int, Field(ge=0, strict=True)]
    name: Annotated[str, Field(min_length=1)]
    watts: Positive | None = None


class SoftwareStack(Settings):
    """Versions that go together: what one release of the vendor's software carries."""

    jetpack: Version
    tensorrt: Version
    cuda: Version
    python: Version


class DeviceProfile(Settings):
    """One device, and where each of its figures comes from.

    ``runtime`` is the runtime that models are written for; ``runtimes`` are all that can be used
    there. ``architecture`` is what ``platform.machine()`` says on the device, None where it varies.
    ``opset`` is the newest ONNX operator set that the device's runtime reads. ``threads`` is the
    number of threads that latency is measured with. ``recipe`` is the shipped recipe used when
    none is asked for. ``channel_multiple`` is the step between channel counts that is worth
    pruning for: in between, the runtime's kernels are no faster. ``memory_gib`` is memory in GiB,
    None where it varies.
    ``float_type`` is how numbers that are not quantized are stored; ``float16`` is for runtimes
    that take every type from the graph, as TensorRT 11 does. ``layer_norm`` says whether the
    runtime knows ONNX's LayerNormalization or gets it as simpler operations. ``sparse_patterns``
    names the patterns of zeros that the runtime runs faster than dense weights (``2:4``).

    Where the hardware is not at hand, latency is predicted (``edgekd/bench/predict.py``) from
    ``peak_gmacs``, for each arithmetic billions of multiply-accumulates a second of dense layers
    on ``threads`` threads, ``memory_gb_per_s``, billions of bytes a second, and
    ``layer_overhead_us``, microseconds that a layer takes besides. None: nothing is predicted.

    ``cpu_flags`` are Linux's names of the instruction sets that the processor has to have,
    ``absent_cpu_flags`` of those that it must not have, for profiles of a kind of processor.
    ``dla_cores`` is the number of deep learning accelerators, ``power_modes`` are a Jetson's, and
    ``software`` lists which JetPack, TensorRT, CUDA and Python go together.

    ``sources`` maps a field to the document that says so.
    """

    name: Name
    title: Annotated[str, Field(min_length=1)]
    updated: date
    runtime: Runtime
    opset: Annotated[int, Field(ge=13, strict=True)]  # 13: first with per-channel Q/DQ
    architecture: Literal["x86_64", "aarch64"] | None = None
    aliases: tuple[Name, ...] = ()
    threads: Count = 1
    recipe: Name = "int8-distilled"
    channel_multiple: Count = 1
    float_type: FloatType = "float32"
    layer_norm: LayerNorm = "operator"
    sparse_patterns: tuple[SparsePattern, ...] = ()
    memory_gib: Positive | None = None
    peak_gmacs: dict[Arithmetic, Positive] | None = None
    memory_gb_per_s: Positive | None = None
    layer_overhead_us: Annotated[float, Field(ge=0, strict=True)] | None = None
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = None
    runtimes: tuple[UsableRuntime, ...] = ()
    cpu_flags: tuple[Flag, ...] = ()
    absent_cpu_flags: tuple[Flag, ...] = ()
    dla_cores: Count | None = None
    power_modes: tuple[PowerMode, ...] = ()
    software: tuple[SoftwareStack, ...] = ()
    notes: str = ""
    sources: dict[str, str] = Field(default_factory=dict)

    @field_validator("sources")
    @classmethod
    def _sources_name_fields(cls, sources: dict[str, str]) -> dict[str, str]:
        for field in sources:
            if field not in cls.model_fields:
                hint = nearest(field, cls.model_fields)
                raise ValueError(f"key {field!r} is not a field of the profile{hint}")
        return sources

    @model_validator(mode="after")
    def _float16_is_possible(self) -> Self:
        if self.float_type == "float16" and (self.runtime != "tensorrt" or self.opset < 19):
            raise ValueError(
                "float_type: float16 needs runtime: tensorrt and opset: 19 or newer, the first "
                "whose quantizers take it; else use float32"
            )
        return self

    @property
    def float_gmacs(self) -> float | None:
        """The peak rate of float layers: TensorRT runs them in FP16, ONNX Runtime in FP32."""
        arithmetic: Arithmetic = "float16" if self.runtime == "tensorrt" else "float32"
        return (self.peak_gmacs or {}).get(arithmetic)


def data_root() -> Path:
    """Return the folder of shipped data, which has two homes.

    A wheel carries it as ``edgekd/_profiles``; in a checkout it is ``profiles`` beside ``edgekd``.
    """
    package = Path(__file__).parent
    installed = package / "_profiles"
    return installed if installed.is_dir() else package.parent / "profiles"


def is_file_name(name_or_path: str) -> bool:
    """Tell a path (``./board.yaml``) from the name of something shipped."""
    path = Path(name_or_path)
    return path.suffix.lower() in (".yaml", ".yml") or path.name != name_or_path


def list_profiles() -> tuple[DeviceProfile, ...]:
    """Return every shipped profile, by name."""
    folder = data_root() / "devices"
    return tuple(
        _read_profile(path) for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)
    )


def load_profile(name_or_path: str) -> DeviceProfile:
    """Return the profile of a shipped name, an alias or a YAML file.

    Raises ProfileError for an unknown name, or with every mistake of the file.
    """
    if is_file_name(name_or_path):
        return _read_profile(Path(name_or_path))
    profiles = {name: profile for profile in list_profiles() for name in _names(profile)}
    wanted = name_or_path.lower()
    if wanted not in profiles:
        names = ", ".join(sorted({profile.name for profile in profiles.values()}))
        hint = nearest(wanted, profiles)
        raise ProfileError(
            f"unknown target {name_or_path!r}{hint}; shipped: {names}; or give a YAML file"
        )
    return profiles[wanted]


def _names(profile: DeviceProfile) -> tuple[str, ...]:
    return (profile.name, *profile.aliases)


def _read_profile(path: Path) -> DeviceProfile:
    try:
        return read(path, DeviceProfile)
    except SettingsError as error:
        raise ProfileError(f"device profile {path}: {error}") from None
