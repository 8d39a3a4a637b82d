"""What a target device can do: profiles shipped with edgekd, or the user's own YAML file."""

from __future__ import annotations

from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from edgekd.errors import ProfileError
from edgekd.settings import Settings, SettingsError, nearest, read
from edgekd.target_names import normal, suggest

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
Flags = Annotated[str, Field(pattern=r"^[a-z0-9_]+(\|[a-z0-9_]+)*$")]
Integers = Literal["fast", "slow", "none"]
READS = {"onnxruntime": ("onnxruntime", "openvino"), "tensorrt": ("tensorrt",)}
"""Which runtimes read the models that are written for one."""


class PowerMode(Settings):
    """A power mode of a Jetson: its number there and its budget in watts (None: no limit)."""

    id: Annotated[int, Field(ge=0, strict=True)]
    name: Annotated[str, Field(min_length=1)]
    watts: Positive | None = None


class SoftwareStack(Settings):
    """Versions that go together: what one JetPack carries; None where no document says.

    ``python`` is the system's own.
    """

    jetpack: Version
    tensorrt: Version
    cuda: Version | None = None
    python: Version | None = None


class DeviceProfile(Settings):
    """One device, and where each of its figures comes from.

    ``runtime`` is the runtime that models are written for; ``runtimes`` are all that can be used
    there, and one of them has to read these models. ``architecture`` is what ``platform.machine()``
    says on the device, None where it varies. ``opset`` is the newest ONNX operator set that the
    device's runtime reads. ``threads`` is the number of threads that latency is measured with.
    ``recipe`` is the shipped recipe used when none is asked for. ``channel_multiple`` is the step
    between channel counts that is worth pruning for: in between, the runtime's kernels are no
    faster. ``memory_gib`` is memory in GiB, None where it varies. ``float_type`` is how numbers
    that are not quantized are stored; ``float16`` is for runtimes that take every type from the
    graph, as TensorRT 11 does. ``layer_norm`` says whether the runtime knows ONNX's
    LayerNormalization or gets it as simpler operations. ``sparse_patterns`` names the patterns of
    zeros that the runtime runs faster than dense weights (``2:4``). ``int8`` says whether its INT8
    kernels pay: ``fast``, ``slow`` (they run, but the processor has no instructions for them), or
    ``none`` (it has no such kernels there).

    Where the hardware is not at hand, latency is predicted (``edgekd/bench/predict.py``) from
    ``peak_gmacs``, for each arithmetic billions of multiply-accumulates a second of dense layers
    on ``threads`` threads, ``memory_gb_per_s``, billions of bytes a second, and
    ``layer_overhead_us``, microseconds that a layer takes besides. None: nothing is predicted.

    ``cpu_flags`` are Linux's names of the instruction sets that the processor has to have (``a|b``:
    one of them), ``absent_cpu_flags`` of those that it must not have, for profiles of a kind of
    processor. ``dla_cores`` is the number of deep learning accelerators, ``power_modes`` are a
    Jetson's, and ``software`` lists which JetPack, TensorRT, CUDA and Python go together.

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
    int8: Integers = "fast"
    memory_gib: Positive | None = None
    peak_gmacs: Annotated[dict[Arithmetic, Positive], Field(min_length=1)] | None = None
    memory_gb_per_s: Positive | None = None
    layer_overhead_us: Annotated[float, Field(ge=0, strict=True)] | None = None
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d+$")] | None = None
    runtimes: tuple[UsableRuntime, ...] = ()
    cpu_flags: tuple[Flags, ...] = ()
    absent_cpu_flags: tuple[Flag, ...] = ()
    dla_cores: Count | None = None
    power_modes: tuple[PowerMode, ...] = ()
    software: tuple[SoftwareStack, ...] = ()
    notes: str = ""
    sources: dict[str, str] = Field(default_factory=dict)

    # Checks of two fields hang on the later one: those of the whole model would only run where
    # every field is right by itself, and a user would see the mistakes one after another.

    @field_validator("float_type")
    @classmethod
    def _float16_is_possible(cls, float_type: FloatType, info: ValidationInfo) -> FloatType:
        runtime, opset = info.data.get("runtime", "tensorrt"), info.data.get("opset", 19)
        if float_type == "float16" and (runtime != "tensorrt" or opset < 19):
            raise ValueError(
                "float16 needs runtime: tensorrt and opset: 19 or newer, the first whose "
                "quantizers take it; else use float32"
            )
        return float_type

    @field_validator("runtimes")
    @classmethod
    def _one_reads_the_models(
        cls, runtimes: tuple[UsableRuntime, ...], info: ValidationInfo
    ) -> tuple[UsableRuntime, ...]:
        runtime = info.data.get("runtime")
        if runtime and runtimes and not set(READS[runtime]) & set(runtimes):
            raise ValueError(
                f"needs {' or '.join(READS[runtime])}, which reads what is written for "
                f"runtime: {runtime}"
            )
        return runtimes

    @field_validator("absent_cpu_flags")
    @classmethod
    def _flags_do_not_contradict(
        cls, absent: tuple[Flag, ...], info: ValidationInfo
    ) -> tuple[Flag, ...]:
        wanted = info.data.get("cpu_flags", ())
        both = [flags for flags in wanted if set(flags.split("|")) <= set(absent)]
        if both:
            raise ValueError(f"{', '.join(both)} is in cpu_flags too: a processor cannot do both")
        return absent

    @field_validator("power_modes")
    @classmethod
    def _modes_differ(cls, modes: tuple[PowerMode, ...]) -> tuple[PowerMode, ...]:
        found = []
        for field in ("id", "name"):
            values = [str(getattr(mode, field)) for mode in modes]
            twice = sorted({value for value in values if values.count(value) > 1})
            found += [f"{field} {', '.join(twice)}"] if twice else []
        if found:
            raise ValueError(f"{' and '.join(found)} given twice")
        return modes

    @field_validator("software")
    @classmethod
    def _stacks_differ(cls, stacks: tuple[SoftwareStack, ...]) -> tuple[SoftwareStack, ...]:
        versions = [stack.jetpack for stack in stacks]
        if twice := sorted({version for version in versions if versions.count(version) > 1}):
            raise ValueError(f"jetpack {', '.join(twice)} given twice")
        return stacks

    @field_validator("sources")
    @classmethod
    def _sources_name_fields(cls, sources: dict[str, str]) -> dict[str, str]:
        unknown = [field for field in sources if field not in cls.model_fields]
        if unknown:
            raise ValueError(
                "; ".join(
                    f"key {field!r} is not a field of the profile{nearest(field, cls.model_fields)}"
                    for field in unknown
                )
            )
        return sources

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


@cache
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
    profiles = list_profiles()
    wanted = normal(name_or_path)
    for profile in profiles:
        if wanted in _names(profile):
            return profile
    known = {profile.name: _names(profile) for profile in profiles}
    hint = suggest(wanted, known, {profile.name: profile.title for profile in profiles})
    raise ProfileError(
        f"unknown target {name_or_path!r}{hint}; `edgekd targets` lists all {len(profiles)}, or "
        "give a YAML file"
    )


def announce(given: str, profile: DeviceProfile) -> str:
    """Return one line that says what ``given``, a name, alias or file, was resolved to."""
    own = "" if given == profile.name else f"{profile.name}, "
    return f"target {given}: {own}{profile.title}"


def _names(profile: DeviceProfile) -> tuple[str, ...]:
    return (profile.name, *profile.aliases)


def _read_profile(path: Path) -> DeviceProfile:
    try:
        return read(path, DeviceProfile)
    except SettingsError as error:
        raise ProfileError(f"device profile {path}: {error}") from None
