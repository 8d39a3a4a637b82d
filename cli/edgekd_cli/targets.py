"""``edgekd targets``: the devices that edgekd knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd_cli.options import Json
from edgekd_cli.output import show_json, show_line, show_table
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
    rows = [(p.name, ", ".join(p.aliases), p.runtime, p.recipe, p.title) for p in profiles]
    show_table(("target", "also", "runtime", "recipe", ""), rows)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A target, an alias or a YAML file.")],
    as_json: Json = False,
) -> None:
    """Show a device profile and where its figures come from."""
    from edgekd.device import load_profile

    profile = load_profile(name)
    if as_json:
        show_json(_plain(profile))
        return
    show_line(f"{profile.name}: {profile.title}")
    values = {key: value for key, value in _plain(profile).items() if key != "sources"}
    rows = [
        (field, _text(value), profile.sources.get(field, ""))
        for field, value in values.items()
        if field not in ("name", "title") and value is not None
    ]
    show_table(("field", "value", "source"), rows)


def _plain(profile: DeviceProfile) -> dict[str, Any]:
    return profile.model_dump(mode="json")


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
