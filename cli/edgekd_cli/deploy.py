"""``edgekd deploy``: a bundle for Triton, or as a project in C++."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd_cli.options import Json, comma_list, length
from edgekd_cli.output import show_json, show_line

app = typer.Typer(
    help="Write a bundle for other programs: a model of Triton, or a project in C++.",
    no_args_is_help=True,
)


class Backend(StrEnum):
    """What runs the model in Triton."""

    onnxruntime = "onnxruntime"
    openvino = "openvino"
    tensorrt = "tensorrt"


class Where(StrEnum):
    """What instances of a model run on."""

    cpu = "cpu"
    gpu = "gpu"


class Warmup(StrEnum):
    """What Triton runs before it says that a model is ready."""

    none = "none"
    zero = "zero"
    random = "random"


Bundle = Annotated[Path, typer.Argument(help="The folder that compress wrote.")]
Role = Annotated[
    str | None,
    typer.Option(
        help="A model of the bundle: compressed or baseline.", show_default="as compress chose"
    ),
]


@app.command("triton")
def triton(
    bundle: Bundle,
    repository: Annotated[
        Path, typer.Argument(metavar="DIR", help="Model repository; the model becomes DIR/NAME.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the model.", show_default="the bundle's")
    ] = None,
    backend: Annotated[
        Backend | None,
        typer.Option(
            help="Triton's backend.", show_default="an engine if there is one, or as compress chose"
        ),
    ] = None,
    model: Role = None,
    engine: Annotated[
        str | None, typer.Option(help="Which of several engines.", show_default="the only one")
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=2**31 - 1,
            help="Largest batch; 0: no batching by Triton.",
            show_default="the engine's, or 8",
        ),
    ] = None,
    preferred_batch: Annotated[
        str | None,
        typer.Option(
            help="Batch sizes to wait for, as 4,8.", show_default="what the engine is tuned for"
        ),
    ] = None,
    queue_delay_us: Annotated[
        int, typer.Option(min=0, help="Microseconds that a request may wait for others.")
    ] = 0,
    instances: Annotated[int, typer.Option(min=1, help="Instances of the model.")] = 1,
    device: Annotated[
        Where | None, typer.Option(help="What they run on.", show_default="as the target")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads of one call on a CPU.", show_default="the target's"),
    ] = None,
    warmup: Annotated[Warmup, typer.Option(help="Run the model before it is ready.")] = Warmup.none,
    as_json: Json = False,
) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server."""
    sizes = comma_list("--preferred-batch", preferred_batch, length) or ()
    from edgekd.deploy.triton import deploy_triton

    done = deploy_triton(
        bundle,
        repository,
        name=name,
        backend=backend and backend.value,
        model=model,
        engine=engine,
        max_batch=max_batch,
        preferred_batch=sizes,
        queue_delay_us=queue_delay_us,
        instances=instances,
        device=device and device.value,
        threads=threads,
        warmup=warmup.value,
    )
    how = f"batches up to {done.max_batch}" if done.max_batch else "no batching"
    line = f"{done.folder}: {done.choice.file} on {done.choice.backend} ({done.device}), {how}"
    _show(done.to_dict(), line, done.notes, as_json=as_json)


@app.command("cpp")
def cpp(
    bundle: Bundle,
    project: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the project.")],
    model: Role = None,
    as_json: Json = False,
) -> None:
    """Write a CMake project of one file that runs the bundle on ONNX Runtime."""
    from edgekd.deploy.cpp import deploy_cpp

    done = deploy_cpp(bundle, project, model=model)
    line = f"{done.folder}: main.cpp and CMakeLists.txt for {done.choice.file}"
    _show(done.to_dict(), line, done.notes, as_json=as_json)


def _show(data: dict[str, Any], line: str, notes: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        show_json(data)
        return
    show_line(line)
    for note in notes:
        show_line(f"note: {note}")
