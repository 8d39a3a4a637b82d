"""``edgekd distill-advice``: what to try first when a student is to learn from a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd_cli.console import open_progress
from edgekd_cli.extras import require_compress
from edgekd_cli.options import Json, comma_list, finite, length
from edgekd_cli.output import percent, show_json, show_line, show_table

if TYPE_CHECKING:
    from edgekd.advice.advise import Report
    from edgekd.advice.features import Feature, Match
    from edgekd.advice.findings import Findings

_ROLES = {"base": "begin with", "add": "add", "instead": "compare with", "how": "and"}


def run(
    teacher: Annotated[Path, typer.Argument(help="Checkpoint or torch.export program.")],
    student: Annotated[
        str,
        typer.Argument(help="The same, or FILE.py:factory for a network that is not trained yet."),
    ],
    data: Annotated[str, typer.Option(help=".npz, image folder or package.module:factory.")],
    arch: Annotated[
        str | None,
        typer.Option(help="FILE.py:factory or package.module:factory, for a teacher's checkpoint."),
    ] = None,
    student_arch: Annotated[
        str | None, typer.Option(help="The same for a student's checkpoint.")
    ] = None,
    unlabeled: Annotated[
        str | None, typer.Option(help="Folder of images or .npz file: more samples, unlabelled.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Per channel, of pixels / 255: 0.485,0.456,0.406")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Per channel, of pixels / 255.")] = None,
    input_shape: Annotated[
        str | None, typer.Option(help="Of one sample, without the batch: 3,32,32")
    ] = None,
    samples: Annotated[
        int, typer.Option(min=16, help="The teacher is asked about so many of each set at most.")
    ] = 5000,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of splits and untrained weights.")
    ] = 0,
    trust_pickle: Annotated[
        bool,
        typer.Option("--trust-pickle", help="Load a pickled module: this runs the file's code."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare a teacher with a student, judge the labels, and recommend losses with sources."""
    means = comma_list("--mean", mean, finite)
    stds = comma_list("--std", std, finite)
    shape = comma_list("--input-shape", input_shape, length)
    if (means is None) != (stds is None):
        raise typer.BadParameter("one makes no sense without the other", param_hint="--mean/--std")
    require_compress()
    from edgekd.advice.advise import advise
    from edgekd.advice.pair import AdviceRequest

    request = AdviceRequest(
        teacher,
        student,
        data,
        arch=arch,
        student_arch=student_arch,
        mean=means,
        std=stds,
        input_shape=shape,
        unlabeled=unlabeled,
        trust_pickle=trust_pickle,
        seed=seed,
        samples=samples,
    )
    report = advise(request, open_progress())
    if as_json:
        show_json(report.to_dict())
    else:
        _show(report)


def _show(report: Report) -> None:
    found = report.findings
    _show_capacity(found)
    if found.matches:
        _show_features(found.matches)
    words = {"yes": "make sense", "no": "make no sense", "open": "are an open question"}
    show_line(f"raw feature hints {words[found.hints.verdict]}: {found.hints.reason}")
    show_line("")
    _show_labels(found)
    show_line("")
    for advice in report.advice:
        show_line(f"{_ROLES[advice.role]}: {advice.what}")
        show_line(f"  because: {advice.because}")
        show_line(f"  source: {'; '.join(map(str, advice.sources))}")
        for key, value in advice.snippet().items():
            show_line(f"  in the stage: {key}: {_flow(value)}")
        if advice.recipe:
            show_line(f"  recipe: {advice.recipe}")
        for gain in advice.gains:
            show_line(f"  measured over plain KL: {gain}")
    chosen = report.recommendation
    show_line("")
    show_line(f"recommended recipe: {chosen.recipe}")
    show_line(f"  because: {chosen.because}")
    show_line(f"  source: {'; '.join(map(str, chosen.sources))}")
    show_line(f"  run it: {report.command}")


def _flow(value: object) -> str:
    """Return a value as YAML in one line, to be copied into a recipe."""
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_flow(entry)}' for key, entry in value.items())}}}"
    return str(value)


def _show_capacity(found: Findings) -> None:
    sizes = found.capacity
    rows = [
        ("parameters", sizes.teacher.parameters, sizes.student.parameters, sizes.parameters),
        ("multiply-accumulates", sizes.teacher.macs, sizes.student.macs, sizes.macs),
    ]
    show_table(
        ("capacity", ">teacher", ">student", ">ratio"),
        [(name, f"{a:,}", f"{b:,}", f"{ratio:.2f}") for name, a, b, ratio in rows],
    )


def _show_features(matches: tuple[Match, ...]) -> None:
    show_table(
        (
            "student",
            "teacher, same depth",
            ">size ratio",
            ">CKA",
            ">untrained",
            "most alike",
            ">CKA",
        ),
        [
            (
                _feature(match.student),
                _feature(match.peer),
                _ratio(match.size_ratio),
                f"{match.similarity:.2f}",
                "-" if match.chance is None else f"{match.chance:.2f}",
                f"{match.best.name} ({match.best.depth:.2f})",
                f"{match.best_similarity:.2f}",
            )
            for match in matches
        ],
        title="features: relative depth, shape of a sample, linear minibatch CKA",
    )


def _feature(feature: Feature) -> str:
    shape = "x".join(map(str, feature.shape))
    return f"{feature.name} ({feature.depth:.2f}) {feature.kind} {shape}"


def _ratio(ratio: tuple[float, ...] | None) -> str:
    if ratio is None:
        return "unlike"
    return "x".join(f"{value:.2g}" for value in ratio) or "-"


def _show_labels(found: Findings) -> None:
    labels, teacher = found.labels, found.teacher
    show_line(f"output: {_task(found)}")
    show_line(f"training samples: {labels.samples}, with a label: {percent(labels.share)}")
    if labels.per_class is not None:
        counts = sorted(labels.per_class)
        show_line(
            f"samples a class: {counts[0]} to {counts[-1]}, median {counts[len(counts) // 2]}"
        )
    if labels.disagreement is not None:
        show_line(
            f"labels that are not the teacher's class: {percent(labels.disagreement)} of "
            f"{labels.looked_at}; likely wrong: {percent(labels.suspect)}"
        )
    if teacher is None:
        return
    line = f"teacher on {teacher.samples} validation samples: confidence {teacher.confidence:.3f}"
    if teacher.accuracy is not None:
        line += (
            f", right {teacher.accuracy:.3f}, calibration error {teacher.calibration_error:.3f}, "
            f"temperature that fits {teacher.temperature:.2f}"
        )
    show_line(line)


def _task(found: Findings) -> str:
    labels = found.labels
    if labels.task == "classes":
        taken = "" if labels.share else ", taken for class logits since no label says otherwise"
        return f"{labels.classes} classes{taken}"
    return {"dense": "a map", "numbers": "numbers, no class logits"}[labels.task]
