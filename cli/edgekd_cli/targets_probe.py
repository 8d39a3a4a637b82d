"""``edgekd targets probe``: write the profile of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd_cli.console import open_progress
from edgekd_cli.options import Json
from edgekd_cli.output import show_json, show_line, show_table

if TYPE_CHECKING:
    from edgekd.device import DeviceProfile


def run(
    out: Annotated[
        str, typer.Option(help="YAML file to write; - is stdout.", show_default="stdout")
    ] = "-",
    name: Annotated[
        str | None,
        typer.Option(help="Name of the profile.", show_default="the board's or processor's"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads to measure with.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Measure this machine, in well under a minute, and write its device profile."""
    from edgekd_hardware.board_profile import probe, to_yaml

    from edgekd.cache import replace_file
    from edgekd.errors import ProfileError

    path = None if out == "-" else Path(out)
    if path and path.suffix.lower() not in (".yaml", ".yml"):
        raise ProfileError(f"{path}: a profile is found by --target only as *.yaml or *.yml")
    if path and path.exists() and not force:
        raise ProfileError(f"{path} is there already; --force replaces it")
    profile = probe(name=name, threads=threads, progress=open_progress())
    if path:
        try:
            replace_file(path, to_yaml(profile).encode())
        except OSError as error:
            raise ProfileError(f"{path} cannot be written: {error.strerror}") from None
    if as_json:
        show_json(profile.model_dump(mode="json"))
    elif path:
        _show(profile, path)
    else:
        show_line(to_yaml(profile).rstrip())


def _show(profile: DeviceProfile, path: Path) -> None:
    show_line(f"{profile.name}: {profile.title}")
    rates = [
        (f"peak {name}", f"{rate:g} GMAC/s") for name, rate in (profile.peak_gmacs or {}).items()
    ]
    shown = [
        *rates,
        ("memory", f"{profile.memory_gb_per_s:g} GB/s"),
        ("overhead of a node", f"{profile.layer_overhead_us:g} us"),
    ]
    show_table(("measured", ">"), shown)
    show_line(f"wrote {path}; use it with: --target {path}")
