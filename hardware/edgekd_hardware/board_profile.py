"""The device profile of this machine: what was found and measured, each field with its source."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date

import yaml
from pydantic import TypeAdapter, ValidationError

from edgekd.device import DeviceProfile, Name, list_profiles
from edgekd.errors import ProfileError
from edgekd.progress import Progress
from edgekd.settings import validate
from edgekd_hardware.gpu import driver, gpus
from edgekd_hardware.jetson_fields import as_jetson, shipped_like
from edgekd_hardware.machine import Machine, find_machine
from edgekd_hardware.probe import probe_cpu
from edgekd_hardware.processor_fields import processor_fields
from edgekd_hardware.rates import Rates, measure_rates


def probe(
    *, name: str | None = None, threads: int = 1, progress: Progress | None = None
) -> DeviceProfile:
    """Return the profile of the machine that this runs on, measured on ``threads`` threads.

    Raises ProfileError for a ``name`` that a profile cannot have or more threads than cores, and
    MeasurementError when something cannot be measured.
    """
    cpu = probe_cpu()
    if name is not None:
        _check(name)
    if threads > cpu.cores:
        raise ProfileError(
            f"{threads} threads on {cpu.cores} usable cores; use --threads {cpu.cores}"
        )
    started = driver()
    machine = find_machine(cpu, gpus() if started.works else started.reason)
    rates = measure_rates(cpu, threads, progress)
    return compose(machine, rates, list_profiles(), today=date.today(), name=name)


def compose(
    machine: Machine,
    rates: Rates,
    shipped: Iterable[DeviceProfile],
    *,
    today: date,
    name: str | None = None,
) -> DeviceProfile:
    """Return the profile of a machine.

    It is for ONNX Runtime on the processor, which is what was measured. A Jetson's is for TensorRT:
    figures of its GPU come from the shipped profile of its kind, with their sources.

    ``name`` is one that a profile can have.
    """
    data, sources = processor_fields(machine, rates, today)
    if machine.jetson:
        known = shipped_like(machine.jetson, machine.memory_bytes, shipped)
        if known:
            as_jetson(data, sources, machine.jetson, known, rates, today)
    data["name"] = name or slug(data["title"])
    in_order = {field: sources[field] for field in DeviceProfile.model_fields if field in sources}
    return validate({**data, "sources": in_order}, DeviceProfile)


def to_yaml(profile: DeviceProfile) -> str:
    """Return the profile as a YAML file that reads back as the same."""
    fields = profile.model_dump(mode="json", exclude_unset=True)
    fields["updated"] = profile.updated  # a date, which YAML writes without quotes
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)


def slug(title: str) -> str:
    """Return a title as the name of a profile: ``Intel(R) Xeon(R)`` as ``intel-xeon``."""
    plain = re.sub(r"\((R|TM|C)\)|®|™", " ", title, flags=re.IGNORECASE)
    name = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    return name[:64].strip("-") or "this-machine"


def _check(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ProfileError(
            f"{name!r} cannot name a profile; use lower case letters, digits, . _ and -, at most 64"
        ) from None
