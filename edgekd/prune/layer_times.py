"""Where the time of a layer comes from: this machine, or the figures of another one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, Protocol

from edgekd.bench.layers import LayerShape
from edgekd.bench.machine import runs_here
from edgekd.bench.predict import DeviceModel
from edgekd.device import DeviceProfile
from edgekd.errors import ProfileError
from edgekd.progress import Progress
from edgekd.prune.layer_table import LayerTable

Source = Literal["measured", "predicted"]


class LayerTimes(Protocol):
    """Where the time of a layer comes from: a LayerTable, or a DeviceModel."""

    @property
    def source(self) -> Source:
        """Say whether the times were measured on the target or computed from its figures."""
        ...

    def times(self, shapes: Iterable[LayerShape]) -> Mapping[LayerShape, float]:
        """Return the microseconds of each shape."""
        ...


def open_layer_times(
    profile: DeviceProfile, folder: Path, progress: Progress | None = None
) -> LayerTimes:
    """Return the times of layers on the device of ``profile``.

    They are measured, and kept under ``folder``, where this machine has the device's runtime and
    architecture; otherwise they are predicted from the profile's figures. Raises ProfileError when
    it has none.
    """
    if runs_here(profile):
        return LayerTable(folder, profile.threads, progress)
    peak, memory, overhead = (
        profile.float_gmacs,
        profile.memory_gb_per_s,
        profile.layer_overhead_us,
    )
    if peak is None or memory is None or overhead is None:
        raise ProfileError(
            f"the latency of {profile.name} can neither be measured here nor predicted: give its "
            "profile peak_gmacs, memory_gb_per_s and layer_overhead_us, or give the prune stage "
            "another budget (macs, parameters)"
        )
    # TensorRT runs float layers in FP16, by its own choice or because the graph says so.
    number_bytes = 2 if profile.runtime == "tensorrt" else 4
    return DeviceModel(peak, memory, overhead, profile.channel_multiple, number_bytes)
