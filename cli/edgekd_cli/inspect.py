"""``edgekd inspect``: what a bundle is, from its manifest, after checking its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgekd_cli.engines import show_engine
from edgekd_cli.exits import show_segments
from edgekd_cli.options import Json
from edgekd_cli.output import show_json, show_line, show_table, size
from edgekd_cli.results import show_result

if TYPE_CHECKING:
    from edgekd.runtime import Manifest


def run(
    bundle: Annotated[Path, typer.Argument(help="The folder that compress wrote.")],
    as_json: Json = False,
) -> None:
    """Show inputs, outputs, bits and kernel per layer, exits, sizes and origin of a bundle."""
    from edgekd.runtime.bundle import verify
    from edgekd.runtime.trust import read_trusted_manifest

    manifest = read_trusted_manifest(bundle)
    verify(bundle, manifest)
    if as_json:
        show_json(manifest.data)
        return
    _show_interface(manifest)
    _show_files(manifest)
    for entry in manifest.data.get("engines") or ():
        show_engine(entry)
        if entry.get("not_run"):
            show_line(f"built, not run: {entry['not_run']}")
    show_segments(manifest.data)
    show_result(manifest.data)
    _show_layers(manifest.data)
    _show_provenance(manifest.data)


def _show_interface(manifest: Manifest) -> None:
    target = manifest.target
    show_line(f"{manifest.name} for {target['name']} ({target['runtime']}), {manifest.task}")
    for tensor in manifest.spec.inputs:
        show_line(f"input   {tensor}")
        steps = manifest.preprocessing.get(tensor.name)
        if steps:
            show_line(f"        from uint8 {steps.layout}, mean {steps.mean}, std {steps.std}")
    for tensor in manifest.spec.outputs:
        show_line(f"output  {tensor}")
    if manifest.classes:
        names = ", ".join(manifest.classes[:10])
        more = ", ..." if len(manifest.classes) > 10 else ""
        show_line(f"classes {len(manifest.classes)}: {names}{more}")


def _show_files(manifest: Manifest) -> None:
    roles = {file: role for role, file in manifest.models.items()}
    rows = [
        (name, roles.get(name, ""), size(entry.size), entry.sha256[:16])
        for name, entry in manifest.files.items()
    ]
    show_table(("file", "model", ">size", "SHA-256 (checked)"), rows)


def _show_layers(data: Mapping[str, Any]) -> None:
    layers = (data.get("kernels") or {}).get("layers") or []
    rows = [
        (
            str(layer["name"]),
            layer["op"],
            layer.get("bits", layer["precision"]),
            layer["kernel"],
            _scales(layer.get("weight_scales")),
            _scales([layer["input_scale"]] if layer.get("input_scale") else None),
            layer["reason"] or "",
        )
        for layer in layers
    ]
    if rows:
        columns = ("layer", "operator", "bits", "kernel", ">weight scales", ">input scale")
        show_table((*columns, "why in float"), rows)


def _scales(values: Sequence[float] | None) -> str:
    """Return steps as ``smallest..largest``, one number where they are equal."""
    return "" if not values else "..".join(dict.fromkeys(f"{value:.3g}" for value in values))


PROVENANCE = ("created", "edgekd", "source", "versions", "seed", "data", "failed_checks")


def _show_provenance(data: Mapping[str, Any]) -> None:
    if data.get("recipe"):
        show_line(f"recipe: {data['recipe']['name']} (whole in --json)")
    for key in PROVENANCE:
        if data.get(key) not in (None, [], {}):
            show_line(f"{key.replace('_', ' ')}: {_flat(data[key])}")


def _flat(value: Any) -> str:
    """Return nested plain data on one line, hashes shortened."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inner(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(_inner, value))
    text = str(value)
    return f"{text[:16]}..." if len(text) == 64 and text.isalnum() else text


def _inner(value: Any) -> str:
    return f"({_flat(value)})" if isinstance(value, dict) else _flat(value)
