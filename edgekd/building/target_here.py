"""An engine at the end of ``compress``, where this machine is the target and has TensorRT."""

from __future__ import annotations

import platform
from importlib.util import find_spec
from pathlib import Path

from edgekd.building.engine import build_engine
from edgekd.device import DeviceProfile
from edgekd.errors import EdgekdError
from edgekd.progress import Progress
from edgekd.runtime.cuda import shared_cuda, why_no_gpu
from edgekd.runtime.trust import OWN_WORK


def is_target_here(profile: DeviceProfile) -> bool:
    """Tell whether an engine for the target can be built here: its GPU, processor and TensorRT."""
    if profile.runtime != "tensorrt" or why_no_gpu() is not None or find_spec("tensorrt") is None:
        return False
    if profile.architecture not in (None, platform.machine().lower()):
        return False
    return shared_cuda().machine().compute_capability == profile.compute_capability


def build_if_here(
    bundle: Path, profile: DeviceProfile, data: str | None, progress: Progress
) -> tuple[str, ...]:
    """Put an engine into the bundle where ``is_target_here``; return the checks that failed.

    Where none can be built a note says why: the bundle is whole without it.
    """
    if not is_target_here(profile):
        return ()
    try:
        built = build_engine(bundle, data=data, progress=progress, trust=OWN_WORK)
    except EdgekdError as error:
        progress.note(f"no engine was built: {error}")
        return ()
    for note in built.notes:
        progress.note(note)
    if built.passed:
        return ()
    return ("the TensorRT engine does not answer as the model does, and was not kept",)
