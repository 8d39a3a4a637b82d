"""Was a board slowed down while it was measured? Pure functions of what ``board_state`` reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

State = Mapping[str, Any]


def reasons(before: State, during: Sequence[State], after: State) -> list[str]:
    """Return what slowed the board down between ``before`` and ``after``; empty if nothing did.

    A flag of a Raspberry Pi's firmware that was up, or went up meanwhile; a counter of the
    processor that rose; a cooling device that limited a clock; a limit of the clocks that fell;
    another power mode. A clock that follows the load within its limits is no reason.
    """
    states = [before, *during, after]
    return [
        *_firmware(states),
        *_counters(before, after),
        *_cooling(states),
        *_limits(states),
        *_power_mode(before, after),
    ]


def hottest(states: Iterable[State]) -> tuple[str, float] | None:
    """Return the sensor that was hottest at any time, and its temperature in Celsius."""
    found = [
        (celsius, name)
        for state in states
        for sensors in (state, state.get("tegrastats", {}))
        for name, celsius in sensors.get("temperatures_c", {}).items()
    ]
    return (max(found)[1], max(found)[0]) if found else None


def describe(machine: Mapping[str, Any], conditions: Mapping[str, Any]) -> str:
    """Return a line about the board that a report's ``machine`` and ``conditions`` tell of."""
    states = [conditions["before"], *conditions["during"], conditions["after"]]
    clocks = [mhz for state in states for mhz in state.get("clocks_mhz", ())]
    hot = hottest(states)
    parts = [f"{conditions['device']}: {machine['processor']}"]
    parts += [f"{name.replace('_', ' ')} {machine[name]}" for name in _SHOWN if machine.get(name)]
    parts += [f"clocks {min(clocks):.0f} to {max(clocks):.0f} MHz"] if clocks else []
    parts += [f"hottest {hot[0]}, {hot[1]:.1f} C"] if hot else []
    slowed = "; ".join(conditions["throttling"])
    seen = any(name in state for state in states for name in _TELLS)
    calm = "no throttling seen" if seen else "nothing there tells of throttling"
    return ", ".join([*parts, f"SLOWED DOWN: {slowed}" if slowed else calm])


def refusal(device: str, slowed: Sequence[str], states: Iterable[State]) -> str:
    """Return the one line that says why the numbers of a ``device`` are not to be trusted."""
    hot = hottest(states)
    heat = f" (hottest: {hot[0]}, {hot[1]:.1f} C)" if hot else ""
    return (
        f"{device} was slowed down meanwhile: {'; '.join(slowed)}{heat}: cool it, check its "
        "power supply and mode and measure again, or take the numbers with --allow-throttling"
    )


_SHOWN = ("power_mode", "governor")
_TELLS = ("firmware", "counters", "cooling")


def _firmware(states: Sequence[State]) -> list[str]:
    told = [state["firmware"] for state in states if "firmware" in state]
    now = {flag for firmware in told for flag in firmware.get("flags", ())}
    since = [{*firmware.get("since_boot", ())} for firmware in told]
    new = since[-1] - since[0] if since else set()
    return [f"the firmware reports {flag}" for flag in sorted(now | new)]


def _counters(before: State, after: State) -> list[str]:
    first, last = (state.get("counters", {}) for state in (before, after))
    rises = {name: count - first.get(name, count) for name, count in last.items()}
    return [f"{name} counted {rise} times" for name, rise in rises.items() if rise > 0]


def _cooling(states: Sequence[State]) -> list[str]:
    most: dict[str, int] = {}
    for state in states:
        for name, level in state.get("cooling", {}).items():
            most[name] = max(level, most.get(name, 0))
    return [f"{name} was at level {level}" for name, level in most.items() if level > 0]


def _limits(states: Sequence[State]) -> list[str]:
    limits = [max(state["max_clocks_mhz"]) for state in states if state.get("max_clocks_mhz")]
    if limits and min(limits) < limits[0]:
        return [f"the clock's limit fell from {limits[0]:.0f} to {min(limits):.0f} MHz"]
    return []


def _power_mode(before: State, after: State) -> list[str]:
    first, last = before.get("power_mode"), after.get("power_mode")
    return [f"the power mode changed from {first} to {last}"] if first != last else []
