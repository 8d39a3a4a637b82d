"""``edgekd demo``: the main job on data that comes with edgekd."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from edgekd_cli.compress import compress_and_show
from edgekd_cli.console import open_progress
from edgekd_cli.extras import require_compress
from edgekd_cli.options import Json
from edgekd_cli.output import percent


def run(
    folder: Annotated[Path, typer.Argument(help="Where the model, the data and the bundle go.")],
    as_json: Json = False,
) -> None:
    """Train a small network on handwritten digits and compress it for this computer."""
    require_compress()
    from edgekd.demo import make_demo
    from edgekd.job import CompressRequest

    progress = open_progress()
    demo = make_demo(folder, progress)
    out = folder / "bundle"
    progress.note(f"wrote {demo.model} (top-1 {percent(demo.accuracy)}) and {demo.data}")
    command = ["edgekd", "compress", demo.model, "--data", demo.data, "--target", "cpu"]
    progress.note(f"now runs: {shlex.join(map(str, [*command, '--out', out]))}")
    request = CompressRequest(model=demo.model, data=str(demo.data), target="cpu", out=out)
    compress_and_show(request, as_json)
