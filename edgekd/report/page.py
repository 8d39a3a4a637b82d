"""The report page: one self-contained HTML file made from the manifest alone."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from edgekd.report.exits import exits_of
from edgekd.report.plots import sensitivity_plot, stage_plot
from edgekd.report.pruning import pruning_of


def render_report(manifest: Mapping[str, Any]) -> str:
    """Return the page as HTML text; it loads nothing from elsewhere.

    Every value from the manifest is escaped, since model and file names come from outside.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = resources.files("edgekd.report").joinpath("page.html.jinja").read_text("utf-8")
    # Our own SVG: names in it are drawn as paths.
    plot = Markup(stage_plot(manifest["stages"]))
    sensitivity = {
        stage["name"]: Markup(sensitivity_plot(stage["details"]))
        for stage in manifest["stages"]
        if "sensitivity" in stage["details"]
    }
    pruning = [
        pruning_of(stage, manifest["stages"][0])
        for stage in manifest["stages"]
        if "prune" in stage["details"]
    ]
    for shown in pruning:
        shown["plot"] = Markup(shown["plot"])
    exits = None
    if manifest.get("early_exits"):
        exits = exits_of(manifest["cascade"], manifest["early_exits"])
        if exits["kept"]:
            exits["plot"] = Markup(exits["plot"])
    return environment.from_string(template).render(
        m=manifest, plot=plot, sensitivity=sensitivity, pruning=pruning, exits=exits
    )
