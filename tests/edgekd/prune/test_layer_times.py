"""Measured where the device's runtime and architecture are here, else predicted, else refused."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgekd.bench.layers import LayerShape
from edgekd.bench.machine import runs_here
from edgekd.bench.predict import DeviceModel
from edgekd.device import load_profile
from edgekd.errors import ProfileError
from edgekd.prune.layer_table import LayerTable
from edgekd.prune.layer_times import open_layer_times

LAYER = LayerShape("linear", 64, 64, (1,))


def test_this_machine_is_measured(tmp_path: Path) -> None:
    times = open_layer_times(load_profile("cpu"), tmp_path)
    assert isinstance(times, LayerTable)
    assert times.source == "measured"
    own = load_profile("arm64").model_copy(update={"architecture": platform.machine()})
    assert runs_here(own)


@pytest.mark.parametrize(
    "name", ["jetson-orin-nano", "jetson-orin-nano-jetpack7", "jetson-nano", "h100", "pi4"]
)
def test_other_hardware_is_predicted(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    times = open_layer_times(profile, tmp_path)
    assert isinstance(times, DeviceModel)
    assert times.source == "predicted"
    assert times.channel_multiple == profile.channel_multiple
    assert times.times([LAYER])[LAYER] > profile.layer_overhead_us  # type: ignore[operator]
    assert not list(tmp_path.iterdir())


def test_without_figures_nothing_is_made_up(tmp_path: Path) -> None:
    profile = load_profile("jetson").model_copy(update={"peak_gmacs": None})
    with pytest.raises(ProfileError, match=r"neither be measured here nor predicted.*peak_gmacs"):
        open_layer_times(profile, tmp_path)
