"""``edgekd compress``: the main job."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd_cli.console import open_progress
from edgekd_cli.extras import require_compress
from edgekd_cli.options import Json, check_finite, comma_list, finite, length
from edgekd_cli.output import show_json, show_line
from edgekd_cli.results import show_result

if TYPE_CHECKING:
    from edgekd.job import CompressRequest
    from edgekd.pipeline import Plan


class Choice(StrEnum):
    """What ``compress`` may choose for production: a runtime, or the fastest of all."""

    auto = "auto"
    onnxruntime = "onnxruntime"
    openvino = "openvino"


def run(
    model: Annotated[Path, typer.Argument(help="Checkpoint or torch.export program.")],
    arch: Annotated[
        str | None,
        typer.Option(help="FILE.py:factory or package.module:factory, for a checkpoint."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help=".npz file, image folder or package.module:factory; without it, images are "
            "made from the model's BatchNorm statistics."
        ),
    ] = None,
    unlabeled: Annotated[
        str | None,
        typer.Option(
            help="Folder of images of any form, or a .npz file, for distillation to train on too."
        ),
    ] = None,
    exit_data: Annotated[
        str | None,
        typer.Option(
            help="Labelled .npz file or folder CLASS/*.jpg on which the thresholds of early exits "
            "are chosen.",
            show_default="the validation samples",
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="FILE.py:factory of a network that learns from the model; runs the code."
        ),
    ] = None,
    student_weights: Annotated[
        Path | None,
        typer.Option(help="Checkpoint that the student starts from.", show_default="new weights"),
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(
            help="ONNX or .pt2 file that teaches too; may be given several times.",
            show_default="the recipe's",
        ),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Per channel, of pixels / 255: 0.485,0.456,0.406")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Per channel, of pixels / 255.")] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="Of one sample, without the batch: 3,32,32")
    ] = None,
    target: Annotated[str, typer.Option(help="A target, an alias or a YAML file.")] = "cpu",
    recipe: Annotated[
        str | None, typer.Option(help="A recipe or a YAML file; the target has a default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the bundle.", show_default="out/MODEL")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            callback=check_finite,
            help="Points of accuracy that may be lost; exits 1 beyond.",
        ),
    ] = None,
    max_nfr: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            callback=check_finite,
            help="Per cent of samples that may turn from right to wrong; exits 1 beyond.",
        ),
    ] = None,
    speedup: Annotated[
        float | None,
        typer.Option(
            callback=check_finite,
            help="Prune until the float model is so many times as fast on the target: 2.0",
        ),
    ] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(
            callback=check_finite,
            help="Prune until the float model takes at most so many milliseconds on the target.",
        ),
    ] = None,
    runtime: Annotated[
        Choice,
        typer.Option(help="What may be chosen to run the model; auto takes what is fastest."),
    ] = Choice.auto,
    single_file: Annotated[
        bool,
        typer.Option(
            "--single-file", help="Write the early exits as one ONNX model with If nodes too."
        ),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Instead of the recipe's seed.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of finished stages, to continue from.")
    ] = None,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Load a pickled module: this runs the file's code."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the recipe and the steps; change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compress a trained model for a device and write a verified bundle."""
    means = comma_list("--mean", mean, finite)
    stds = comma_list("--std", std, finite)
    shape = comma_list("--input-shape", input_shape, length)
    if (means is None) != (stds is None):
        raise typer.BadParameter("one makes no sense without the other", param_hint="--mean/--std")
    require_compress()
    from edgekd.job import CompressRequest

    request = CompressRequest(
        model=model,
        data=data,
        arch=arch,
        mean=means,
        std=stds,
        input_shape=shape,
        target=target,
        recipe=recipe,
        out=out or Path("out") / (model.stem or "model"),
        max_drop=max_drop,
        max_nfr=max_nfr,
        speedup=speedup,
        latency_ms=latency_ms,
        runtime=runtime.value,
        trust_pickle=trust_pickle,
        seed=seed,
        cache=cache,
        unlabeled=unlabeled,
        exit_data=exit_data,
        single_file=single_file,
        student=student,
        student_weights=student_weights,
        teachers=tuple(teacher or ()),
    )
    if dry_run:
        _show_plan(request, as_json)
    else:
        compress_and_show(request, as_json)


def compress_and_show(request: CompressRequest, as_json: bool) -> None:
    """Run the pipeline and print what came out; exits 1 when a check failed."""
    from edgekd.pipeline import compress

    result = compress(request, open_progress())
    failures = list(result.messages)
    if as_json:
        show_json(
            {
                "out": str(result.out),
                "passed": result.passed,
                "failed_checks": failures,
                "manifest": result.manifest,
            }
        )
    else:
        show_result(result.manifest)
        for message in failures:
            show_line(f"failed: {message}")
        show_line(f"bundle: {result.out}")
    if not result.passed:
        raise typer.Exit(1)


def _show_plan(request: CompressRequest, as_json: bool) -> None:
    from edgekd.pipeline import plan
    from edgekd.recipe import recipe_to_yaml

    planned = plan(request)
    if as_json:
        steps = [
            {"name": s.name, "cached": s.cached, "description": s.description}
            for s in planned.steps
        ]
        recipe = planned.recipe.model_dump(mode="json")
        shown = {"target": planned.profile.name, "notes": planned.notes}
        show_json({**shown, "recipe": recipe, "steps": steps})
        return
    for line in _comments(planned):
        show_line(f"# {line}")
    typer.echo(recipe_to_yaml(planned.recipe), nl=False)


def _comments(planned: Plan) -> list[str]:
    """Return the steps as lines without a line break inside, safe to put behind a ``#``."""
    lines = ["dry run; this text is a valid --recipe", *planned.notes]
    for number, step in enumerate(planned.steps, 1):
        state = " (cached)" if step.cached else ""
        lines.append(f"{number}. {step.name}{state}: {step.description}")
    return [" ".join(line.split()) for line in lines]
