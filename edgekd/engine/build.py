"""Build an engine: one code path for TensorRT 8.5 to 11 and TensorRT-RTX.

What the installed version offers decides, never its number: flags came and went. NVIDIA, TensorRT
developer guide, "Build Phase", "Strongly Typed Networks", "Working with DLA", "Sparsity" and
"Timing Cache"; the names by version were read from the bindings of ten releases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from edgekd.engine.binding import RTX, Binding
from edgekd.engine.plan import BuildPlan
from edgekd.errors import BundleError
from edgekd.runtime.tensors import one_line

STRONG = 10  # from this major version on networks are strongly typed
_OWN_TACTICS = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")


@dataclass(frozen=True)
class Built:
    """An engine with its timing cache (empty where the version has none) and what was used."""

    engine: bytes
    timing_cache: bytes
    strongly_typed: bool
    compute_capabilities: tuple[str, ...]
    flags: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...]


def build(
    binding: Binding,
    model: bytes,
    plan: BuildPlan,
    timing_cache: bytes = b"",
    *,
    external_tactics: bool = True,
) -> Built:
    """Parse an ONNX model and build its engine as ``plan`` says.

    ``timing_cache`` is what an earlier build left: the same kernels are chosen without measuring
    them again. Without ``external_tactics`` no kernels of cuBLAS and cuDNN are tried.

    Raises BundleError for a model that the parser refuses, by node, for something in the plan that
    this version or GPU does not offer, and where no engine comes out, with TensorRT's own words.
    """
    trt, start = binding.trt, monotonic()
    try:
        builder = trt.Builder(binding.log.own)
    except TypeError as error:  # pybind11, where the factory returns nothing
        raise BundleError(f"TensorRT's builder does not start: {_words(binding)}") from error
    strong = binding.major >= STRONG
    network = builder.create_network(_network_flags(trt, strong))
    _parse(binding, network, model)
    config = builder.create_builder_config()
    flags = _Flags(trt, config, binding)
    _set_precision(flags, plan, strong)
    _set_rest(flags, builder, plan, external_tactics)
    targets = _set_targets(binding, config, plan)
    _set_shapes(builder, network, config, plan)
    cache = _open_cache(binding, config, timing_cache)
    plan_bytes = builder.build_serialized_network(network, config)
    if plan_bytes is None:
        raise BundleError(f"{binding.title} builds no engine: {_words(binding)}")
    return Built(
        bytes(plan_bytes),
        bytes(cache.serialize()) if cache is not None else b"",
        strong,
        targets,
        tuple(flags.used),
        monotonic() - start,
        tuple(binding.log.warnings()),
    )


def _network_flags(trt: Any, strong: bool) -> int:
    wanted = ["EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if strong else [])]
    kinds = trt.NetworkDefinitionCreationFlag
    return sum(1 << int(getattr(kinds, name)) for name in wanted if hasattr(kinds, name))


def _parse(binding: Binding, network: Any, model: bytes) -> None:
    parser = binding.trt.OnnxParser(network, binding.log.own)
    if parser.parse(model):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = "; ".join(_explain(error) for error in errors[:3]) or _words(binding)
    raise BundleError(f"{binding.title} cannot read the model: {said}")


def _explain(error: Any) -> str:
    """Return where and why the parser stopped; versions before 8.6 know the node's number only."""
    where = error.node_name() if hasattr(error, "node_name") else ""
    return f"{where or f'node {error.node()}'}: {one_line(Exception(error.desc()))}"


class _Flags:
    """Sets builder flags and remembers them; refuses what the version does not have."""

    def __init__(self, trt: Any, config: Any, binding: Binding) -> None:
        self.trt, self.config, self.binding = trt, config, binding
        self.used: list[str] = []

    def set(self, name: str, why: str) -> None:
        """Set a flag; raises BundleError, naming what asked for it, where there is none."""
        if not hasattr(self.trt.BuilderFlag, name):
            raise self.lacking(why)
        self.config.set_flag(getattr(self.trt.BuilderFlag, name))
        self.used.append(name)

    def lacking(self, why: str) -> BundleError:
        """Return the error for something that was asked for and is not there."""
        return BundleError(
            f"{self.binding.title} has no {why}: leave it out, or build with another version"
        )


def _set_precision(flags: _Flags, plan: BuildPlan, strong: bool) -> None:
    """Allow 16 and 8 bits in a weakly typed network; a strongly typed one has its types."""
    if strong:
        return
    if plan.float16:
        flags.set("FP16", "FP16")
    if plan.int8:
        flags.set("INT8", "INT8")


def _set_rest(flags: _Flags, builder: Any, plan: BuildPlan, external_tactics: bool) -> None:
    trt, config = flags.trt, flags.config
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector needs it
    if plan.sparse:
        flags.set("SPARSE_WEIGHTS", "kernels for 2:4 zeros")
    if plan.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, plan.workspace_bytes)
    if plan.dla_core is not None:
        cores = int(builder.num_DLA_cores)
        if plan.dla_core >= cores:
            raise BundleError(f"this device has {cores} DLA cores, there is no {plan.dla_core}")
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = plan.dla_core
        flags.set("GPU_FALLBACK", "way to run on the GPU what the DLA cannot")
    if plan.version_compatible:
        flags.set("VERSION_COMPATIBLE", "version-compatible engines")
    if plan.hardware_compatible != "none":
        levels = getattr(trt, "HardwareCompatibilityLevel", None)
        level = getattr(levels, plan.hardware_compatible.upper(), None)
        if level is None:
            raise flags.lacking(f"hardware compatibility {plan.hardware_compatible!r}")
        config.hardware_compatibility_level = level
    if not external_tactics:
        have = [getattr(trt.TacticSource, n) for n in _OWN_TACTICS if hasattr(trt.TacticSource, n)]
        config.set_tactic_sources(sum(1 << int(source) for source in have))
        preview = getattr(trt, "PreviewFeature", None)
        off = getattr(preview, "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805", None)
        if off is not None:
            config.set_preview_feature(off, True)


def _set_targets(binding: Binding, config: Any, plan: BuildPlan) -> tuple[str, ...]:
    """Say for which GPUs to build: TensorRT for the one that is here, RTX also for others."""
    here = binding.machine.compute_capability if binding.machine is not None else None
    wanted = plan.compute_capabilities
    if binding.name != RTX:
        if wanted and here not in wanted:
            raise BundleError(
                f"TensorRT builds for the GPU it runs on, which has compute capability {here}, not "
                f"{', '.join(wanted)}: build on the device"
            )
        return (here,) if here is not None else ()
    if not wanted and here is None:
        raise BundleError(
            "there is no GPU here to build for: name its compute capability "
            f"(--compute-capability), one of {', '.join(supported_by_rtx(binding.trt))}"
        )
    if not wanted:
        return (str(here),)
    known = supported_by_rtx(binding.trt)
    for capability in wanted:
        if capability not in known:
            raise BundleError(
                f"{binding.title} builds for compute capability "
                f"{', '.join(known)}, not for {capability}; build on the device with TensorRT"
            )
    config.num_compute_capabilities = len(wanted)
    for index, capability in enumerate(wanted):
        member = getattr(binding.trt.ComputeCapability, f"SM{capability.replace('.', '')}")
        config.set_compute_capability(member, index)
    return tuple(wanted)


def supported_by_rtx(trt: Any) -> Sequence[str]:
    """Return the compute capabilities that TensorRT-RTX builds for, like ``8.6``."""
    names = [name[2:] for name in dir(trt.ComputeCapability) if name[:2] == "SM"]
    return sorted((f"{name[:-1]}.{name[-1]}" for name in names), key=float)


def _set_shapes(builder: Any, network: Any, config: Any, plan: BuildPlan) -> None:
    """Add an optimisation profile where an input has a free axis."""
    profile, free = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        given = network.get_input(index)
        sizes = plan.shapes.get(given.name)
        own = tuple(given.shape)
        if sizes is None:
            raise BundleError(f"the plan has no shapes for the model's input {given.name!r}")
        for shape in (sizes.smallest, sizes.best, sizes.largest):
            fits = len(own) == len(shape) and all(
                a in (-1, b)
                for a, b in zip(own, shape)  # noqa: B905 - strict= needs Python 3.10
            )
            if not fits:
                raise BundleError(f"the plan's shape {shape} does not fit {given.name}{own}")
        if -1 in own:
            free = True
            profile.set_shape(given.name, sizes.smallest, sizes.best, sizes.largest)
    if free:
        config.add_optimization_profile(profile)


def _open_cache(binding: Binding, config: Any, content: bytes) -> Any:
    """Return a timing cache in use; one that cannot be read is replaced by an empty one.

    None where the version has none: in TensorRT-RTX it does nothing since 1.2. A cache of another
    version or GPU is of no use, and no fault.
    """
    if binding.name == RTX or not hasattr(config, "create_timing_cache"):
        return None
    for blob in (content, b"") if content else (b"",):
        try:
            cache = config.create_timing_cache(blob)
            if cache is not None and config.set_timing_cache(cache, False):
                return cache
        except (TypeError, RuntimeError):
            continue
    return None


def _words(binding: Binding) -> str:
    return binding.log.errors() or "it does not say why"
