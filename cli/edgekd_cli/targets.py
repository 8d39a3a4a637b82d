"""``edgekd targets``: the devices that edgekd knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd_cli.console import open_progress
from edgekd_cli.extras import require_compress
from edgekd_cli.options import Json
from edgekd_cli.output import show_json, show_line, show_table
from edgekd_cli.profile_text import show_profile
from edgekd_cli.targets_probe import run as probe

if TYPE_CHECKING:
    from edgekd.device import DeviceProfile

app = typer.Typer(help="The devices that edgekd knows, and this one.")


app.command("probe")(probe)


@app.callback(invoke_without_command=True)
def list_all(context: typer.Context, as_json: Json = False) -> None:
    """List the devices that edgekd knows, or show one of them."""
    if context.invoked_subcommand is not None:
        return
    from edgekd.device import list_profiles

    profiles = list_profiles()
    if as_json:
        show_json([_plain(profile) for profile in profiles])
        return
    rows = [(p.name, ", ".join(p.aliases), p.title) for p in profiles]
    show_table(("target", "also", "device"), rows)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A target, an alias or a YAML file.")],
    as_json: Json = False,
) -> None:
    """Show a device profile and where its figures come from."""
    from edgekd.device import announce, load_profile

    profile = load_profile(name)
    if as_json:
        show_json(_plain(profile))
        return
    show_line(announce(name, profile))
    show_profile(profile)


@app.command("calibrate")
def calibrate(
    target: Annotated[
        str, typer.Option(help="Name, alias or YAML file of the device that this machine is.")
    ] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of one call.", show_default="the target's")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file; one that is there is continued.",
            show_default="beside the YAML file, or the user's data folder",
        ),
    ] = None,
    budget_s: Annotated[
        float, typer.Option(min=1.0, help="Stop measuring after so many seconds.")
    ] = 540.0,
    as_json: Json = False,
) -> None:
    """Measure layers on this machine, for edgekd predict."""
    require_compress()
    from dataclasses import asdict

    from edgekd.device import load_profile
    from edgekd.predict.calibrate import calibrate as measure
    from edgekd.predict.predict import calibration_path

    profile = load_profile(target)
    path = out or calibration_path(target, profile)
    table = measure(profile, path, threads=threads, budget_s=budget_s, progress=open_progress())
    if as_json:
        show_json(
            {
                "file": str(path),
                "networks": len(table.networks),
                "kernels": sum(len(network.kernels) for network in table.networks),
                "conditions": dict(table.conditions),
                "held_out": None if table.held_out is None else asdict(table.held_out),
            }
        )
        return
    kernels = sum(len(network.kernels) for network in table.networks)
    show_line(f"{path}: {len(table.networks)} networks, {kernels} kernels on {table.machine}")


def _plain(profile: DeviceProfile) -> dict[str, Any]:
    return profile.model_dump(mode="json")
