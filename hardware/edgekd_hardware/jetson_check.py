"""Whether JetPack, TensorRT, CUDA and Python on a Jetson belong together, and its power state.

What goes together is in the device profiles (``DeviceProfile.software``), with sources there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from edgekd.device import SoftwareStack
from edgekd_hardware import clocks
from edgekd_hardware.findings import Finding
from edgekd_hardware.jetson import Jetson, strongest
from edgekd_hardware.system import ROOT

_RUNTIME_PYTHON = (3, 8)  # what edgekd.runtime needs


def findings(
    jetson: Jetson, known: Iterable[SoftwareStack], python: str, root: Path = ROOT
) -> tuple[Finding, ...]:
    """Compare what is installed with what goes together; ``python`` is the one that runs this.

    ``known`` lists which versions go together, of all JetPacks.
    """
    stacks = stacks_of(jetson.jetpack, known)
    return (
        Finding("Jetson", "ok", f"{jetson.model}, Jetson Linux {jetson.linux or 'unknown'}"),
        _jetpack(jetson, stacks),
        _tensorrt(jetson, stacks),
        _cuda(jetson, stacks),
        *_python(jetson, stacks, python),
        *_power(jetson),
        *_clocks(jetson, root),
    )


def stacks_of(jetpack: str | None, known: Iterable[SoftwareStack]) -> tuple[SoftwareStack, ...]:
    """Return what goes with a JetPack; 6.2.1 goes as 6.2 where it is not listed itself."""
    if jetpack is None:
        return ()
    stacks = tuple(known)
    exact = tuple(stack for stack in stacks if stack.jetpack == jetpack)
    return exact or tuple(stack for stack in stacks if _is(jetpack, stack.jetpack))


def _jetpack(jetson: Jetson, stacks: Sequence[SoftwareStack]) -> Finding:
    if jetson.jetpack is None:
        value = f"unknown: Jetson Linux {jetson.linux or '?'} without the package nvidia-jetpack"
        return Finding("JetPack", "missing", value, "sudo apt install nvidia-jetpack")
    package = jetson.jetpack_package
    if package and not (_is(package, jetson.jetpack) or _is(jetson.jetpack, package)):
        value = (
            f"Jetson Linux {jetson.linux} is JetPack {jetson.jetpack}'s, but the package "
            f"nvidia-jetpack is {package}"
        )
        advice = (
            "name the right release in /etc/apt/sources.list.d/nvidia-l4t-apt-source.list, then: "
            "sudo apt update && sudo apt install nvidia-jetpack"
        )
        return Finding("JetPack", "missing", value, advice)
    if not stacks:
        advice = "what goes with it: https://developer.nvidia.com/embedded/jetpack-archive"
        return Finding("JetPack", "note", f"{jetson.jetpack}, not in edgekd's table", advice)
    return Finding("JetPack", "ok", jetson.jetpack)


def _tensorrt(jetson: Jetson, stacks: Sequence[SoftwareStack]) -> Finding:
    subject, wanted = "JetPack TensorRT", [stack.tensorrt for stack in stacks]
    install = "sudo apt install nvidia-jetpack"
    if jetson.tensorrt is None:
        return Finding(subject, "missing", "not installed", install)
    if wanted and not any(_is(jetson.tensorrt, version) for version in wanted):
        value = (
            f"TensorRT {jetson.tensorrt} is installed, JetPack {jetson.jetpack} carries "
            f"{_either(wanted)}"
        )
        advice = f"sudo apt remove tensorrt 'libnvinfer*' && {install}"
        return Finding(subject, "missing", value, advice)
    return Finding(subject, "ok", jetson.tensorrt)


def _cuda(jetson: Jetson, stacks: Sequence[SoftwareStack]) -> Finding:
    subject, wanted = "JetPack CUDA", [stack.cuda for stack in stacks if stack.cuda]
    if jetson.cuda is None:
        return Finding(subject, "missing", "not installed", "sudo apt install nvidia-jetpack")
    if wanted and not any(_is(jetson.cuda, version) for version in wanted):
        value = (
            f"CUDA {jetson.cuda} is installed, JetPack {jetson.jetpack} carries {_either(wanted)}"
        )
        advice = "right if it was put there on purpose; TensorRT is built for JetPack's"
        return Finding(subject, "note", value, advice)
    return Finding(subject, "ok", jetson.cuda)


def _python(jetson: Jetson, stacks: Sequence[SoftwareStack], python: str) -> tuple[Finding, ...]:
    """Say for which Python TensorRT's module is, and that this one may be another."""
    subject, wanted = "JetPack Python", [stack.python for stack in stacks if stack.python]
    system = jetson.python
    if system and wanted and not any(_is(system, version) for version in wanted):
        value = (
            f"/usr/bin/python3 is {system}, JetPack {jetson.jetpack} and its TensorRT are for "
            f"{_either(wanted)}"
        )
        advice = f"sudo ln -sf python{wanted[0]} /usr/bin/python3"
        return (Finding(subject, "missing", value, advice),)
    if jetson.tensorrt and not jetson.bindings:
        value = "TensorRT is there, its Python module is not"
        advice = "sudo apt install python3-libnvinfer"
        return (Finding(subject, "missing", value, advice),)
    if not jetson.bindings:
        return ()
    value = f"TensorRT's module is for Python {_either(jetson.bindings)}"
    if any(_is(python, version) for version in jetson.bindings):
        return (Finding(subject, "ok", value),)
    newest = max(jetson.bindings, key=_numbers)
    use = (
        f"run bundles with /usr/bin/python{newest}"
        if _numbers(newest) >= _RUNTIME_PYTHON
        else f"edgekd.runtime needs 3.8, so run engines with trtexec or in Python {newest} yourself"
    )
    advice = f"no `import tensorrt` in this Python {python}; on the board, {use}"
    return (Finding(subject, "note", value, advice),)


def _power(jetson: Jetson) -> tuple[Finding, ...]:
    best = strongest(jetson.power_modes)
    mode = next((mode for mode in jetson.power_modes if mode.id == jetson.power_mode), None)
    if mode is None or best is None:
        return (Finding("power mode", "note", "not readable", "see: sudo nvpmodel -q --verbose"),)
    if mode.id == best.id:
        return (Finding("power mode", "ok", f"{mode.name} ({mode.id}), the strongest"),)
    advice = f"for the board's best times: sudo nvpmodel -m {best.id} ({best.name})"
    return (Finding("power mode", "note", f"{mode.name} ({mode.id})", advice),)


def _clocks(jetson: Jetson, root: Path) -> tuple[Finding, ...]:
    states = [clocks.cpu_clocks_fixed(root), clocks.gpu_clocks_fixed(root)]
    known = [state for state in states if state is not None]
    found = []
    if known:
        fixed = all(known)
        value = "fixed" if fixed else "follow the load"
        advice = "" if fixed else "steadier times: sudo jetson_clocks (until the next start)"
        found.append(Finding("jetson_clocks", "ok" if fixed else "note", value, advice))
    if jetson.fan_profile == "quiet":
        advice = "for long runs set FAN_DEFAULT_PROFILE cool in /etc/nvfancontrol.conf"
        found.append(
            Finding("fan", "note", "quiet: lets the board get hot before it blows", advice)
        )
    return tuple(found)


def _is(version: str, wanted: str) -> bool:
    """Tell whether a version is ``wanted`` as far as that is given: 10.3.0.30 is 10.3."""
    parts = wanted.split(".")
    return version.split(".")[: len(parts)] == parts


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _either(versions: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(versions))
