"""``edgekd build``: a TensorRT engine of a bundle's model, verified, timed and put into it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd_cli.console import open_progress
from edgekd_cli.engines import show_engine
from edgekd_cli.options import Json, SshConfig
from edgekd_cli.output import show_json, show_line

if TYPE_CHECKING:
    from edgekd.bench.place import Place
    from edgekd.building.engine import Building

EXIT_FAILED = 1


class BindingName(StrEnum):
    """The TensorRTs that can build."""

    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt_rtx"


class Compatible(StrEnum):
    """Which other GPUs an engine is to run on."""

    ampere_plus = "ampere_plus"
    same_compute_capability = "same_compute_capability"


def run(
    bundle: Annotated[Path, typer.Argument(help="The folder that compress wrote.")],
    target: Annotated[
        str | None,
        typer.Option(help="Refuse a bundle that is for another target.", show_default="any"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Verify on its validation part: .npz, image folder or package.module:factory.",
            show_default="random numbers",
        ),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Largest batch.", show_default="the plan's, 8")
    ] = None,
    opt_batch: Annotated[
        int | None, typer.Option(min=1, help="Fastest batch.", show_default="the plan's, 1")
    ] = None,
    dla: Annotated[
        int | None,
        typer.Option(min=0, help="Use this DLA core; the GPU runs what it cannot."),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="For newer minor versions as well.")
    ] = False,
    hardware_compatible: Annotated[
        Compatible | None, typer.Option(help="For other GPUs as well.", show_default="this one")
    ] = None,
    workspace_mib: Annotated[
        int | None, typer.Option(min=1, help="Memory for the builder.", show_default="the plan's")
    ] = None,
    binding: Annotated[
        BindingName | None,
        typer.Option(help="Which TensorRT builds.", show_default="tensorrt if it can"),
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            help="Build for this GPU, like 8.6; TensorRT-RTX only. Repeat it for several.",
            show_default="the GPU here, else the target's",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the bundle with the engine there.", show_default="the bundle"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Build on a board: ssh://user@host[:port], or a host of ssh's configuration.",
            show_default="this machine",
        ),
    ] = None,
    device_python: Annotated[
        str, typer.Option(help="The board's Python, 3.8 or later, with numpy and TensorRT.")
    ] = "python3",
    ssh_config: SshConfig = None,
    as_json: Json = False,
) -> None:
    """Build a TensorRT engine where TensorRT is, check it against the ONNX model, and time it."""
    from edgekd.building.engine import build_engine
    from edgekd.building.wishes import Wishes

    if target is not None:
        _check_target(bundle, target)
    wishes = Wishes(
        max_batch=max_batch,
        opt_batch=opt_batch,
        dla_core=dla,
        version_compatible=version_compatible,
        hardware_compatible=None if hardware_compatible is None else hardware_compatible.value,
        workspace_bytes=None if workspace_mib is None else workspace_mib << 20,
        compute_capabilities=tuple(compute_capability or ()),
    )
    chosen = None if binding is None else binding.value
    progress = open_progress()

    def build(place: Place | None) -> Building:
        return build_engine(
            bundle,
            wishes=wishes,
            data=data,
            binding=chosen,
            out=out,
            place=place,
            progress=progress,
        )

    if device is None:
        result = build(None)
    else:
        from edgekd_hardware.board_build import build_on
        from edgekd_hardware.ssh import Connection, parse_address

        connection = Connection(parse_address(device), device_python, ssh_config)
        result = build_on(connection, build, binding=chosen, progress=progress)
    if as_json:
        show_json(result.to_dict())
    else:
        _show(result)
    if not result.passed:
        typer.echo(f"failed: {_refusal(bundle, result)}", err=True)
        raise typer.Exit(EXIT_FAILED)


def _check_target(bundle: Path, target: str) -> None:
    """Raise BundleError, with both names, unless the bundle is for ``target``."""
    from edgekd.device import load_profile
    from edgekd.errors import BundleError
    from edgekd.runtime.trust import read_trusted_manifest

    own = read_trusted_manifest(bundle).target["name"]
    wanted = load_profile(target).name
    if own != wanted:
        raise BundleError(
            f"{bundle} is for {own}, not for {wanted}: leave --target out, or compress again with "
            f"--target {wanted}"
        )


def _show(result: Building) -> None:
    show_engine(result.entry)
    for note in result.notes:
        show_line(note)


def _refusal(bundle: Path, result: Building) -> str:
    found = result.entry["verification"]
    return (
        f"the engine does not answer as {result.entry['onnx']} does "
        f"({found['clear_disagreements']} clear disagreements, relative error "
        f"{found['relative_error']}, at most {found['tolerance']:g}); {bundle} was left as it was"
    )
