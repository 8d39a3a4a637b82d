"""Which shipped recipe to run first: the first rule that speaks.

Rules stand from what rules out most to what rules out nothing. They repeat what their sources
measured; where a limit is a number, it is one of ``edgekd.advice.findings``.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.advice import sources
from edgekd.advice.findings import SAME, SUSPECT, Findings, kinds, percent
from edgekd.advice.pair import AdviceRequest
from edgekd.advice.sources import Source
from edgekd.model.user_code import is_factory

FEW_LABELS = 0.5  # share of labelled samples, below which soft labels of all come first


@dataclass(frozen=True)
class Recommendation:
    """A shipped recipe, and why."""

    recipe: str
    because: str
    sources: tuple[Source, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "recipe": self.recipe,
            "because": self.because,
            "sources": [str(source) for source in self.sources],
        }


Rule = Callable[[Findings], Recommendation | None]


def _no_classes(found: Findings) -> Recommendation | None:
    if found.labels.task == "classes":
        return None
    return Recommendation(
        "student-distilled",
        "the output is no class logits of samples: this recipe compares what there is, all others "
        "class probabilities or labels",
        (sources.REGRESSION,),
    )


def _soft_labels(found: Findings) -> Recommendation | None:
    labels = found.labels
    if not labels.share:
        why = "no sample has a label"
    elif labels.suspect is not None and labels.suspect > SUSPECT:
        why = f"{percent(labels.suspect)} of the labels are likely wrong"
    elif labels.share < FEW_LABELS:
        why = f"only {percent(labels.share)} of the samples have a label"
    else:
        return None
    return Recommendation(
        "student-soft-labels",
        f"{why}: it learns the teacher's probabilities alone",
        (sources.SSLD,),
    )


def _unlike(found: Findings) -> Recommendation | None:
    if kinds(found) not in (("map", "tokens"), ("tokens", "map")):
        return None
    return Recommendation(
        "student-across-architectures",
        "features of unlike architectures diverge: it compares logits, those of branches too",
        (sources.ONE_FOR_ALL,),
    )


def _same_size(found: Findings) -> Recommendation | None:
    if any(abs(r - 1) > SAME for r in (found.capacity.parameters, found.capacity.macs)):
        return None
    return Recommendation(
        "self-distilled",
        "both networks have the same size: the teacher itself goes on in generations, each with a "
        "share of the labels",
        (sources.BORN_AGAIN, sources.GUIDANCE),
    )


def _plain(_: Findings) -> Recommendation | None:
    return Recommendation(
        "student-distilled",
        "labels are there and look right, and the networks are of one kind and of unlike sizes: "
        "nothing speaks against plain KL",
        (sources.HINTON,),
    )


RULES: tuple[Rule, ...] = (_no_classes, _soft_labels, _unlike, _same_size, _plain)


def recommend(found: Findings) -> Recommendation:
    """Return what the first rule says."""
    return next(said for rule in RULES if (said := rule(found)) is not None)


def command(request: AdviceRequest, recipe: str) -> str:
    """Return the command that runs ``recipe`` for this pair and data.

    A student that came as a file without the code that builds it has to be named by its function;
    ``FILE.py:factory`` stands for that. Recipes whose name says nothing of a student have none.
    """
    text, arch = request.student, request.student_arch
    built = is_factory(text) and not Path(text).exists()
    student = ["--student", text if built else arch or "FILE.py:factory"]
    if not built and arch is not None:
        student += ["--student-weights", text]
    options = {
        "--arch": request.arch,
        "--data": request.data,
        "--unlabeled": request.unlabeled,
        "--mean": _comma(request.mean),
        "--std": _comma(request.std),
        "--input-shape": _comma(request.input_shape),
    }
    words = ["edgekd", "compress", str(request.teacher)]
    for option, value in options.items():
        words += [] if value is None else [option, value]
    words += [*(student if recipe.startswith("student-") else ()), "--recipe", recipe]
    if request.trust_pickle:
        words.append("--trust-pickle")
    if request.seed:
        words += ["--seed", str(request.seed)]
    return shlex.join(words)


def _comma(values: tuple[float, ...] | None) -> str | None:
    return None if values is None else ",".join(f"{value:g}" for value in values)
