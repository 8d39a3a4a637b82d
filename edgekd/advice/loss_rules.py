"""Rules about losses: which to begin with, to add, to compare with. Each repeats its sources."""

from __future__ import annotations

import math

from pydantic import TypeAdapter

from edgekd.advice import measured as benchmark
from edgekd.advice import sources
from edgekd.advice.features import Feature
from edgekd.advice.findings import (
    FEW_CLASSES,
    GAP,
    SUSPECT,
    Advice,
    Findings,
    kinds,
    percent,
    words,
)
from edgekd.loss_settings import (
    ChannelWise,
    HardClass,
    Hint,
    Kl,
    LossSettings,
    MiniLm,
    OneForAll,
    RelativeMse,
    ScaleKd,
    Ssld,
    StandardizedKl,
    Subclasses,
)


def plain(found: Findings) -> Advice | None:
    """Say what to begin with where there are classes and labels."""
    if found.labels.task != "classes" or not found.labels.share:
        return None
    return Advice(
        "base",
        "plain KL on the logits at a raised temperature, with the labels beside it",
        f"class logits ({found.labels.classes} classes), and {percent(found.labels.share)} of the "
        "samples have labels",
        (sources.HINTON,),
        (Kl(loss="kl"),),
        (("label_weight", 0.1),),
        "student-distilled",
    )


def without_labels(found: Findings) -> Advice | None:
    """Say what to do where labels are missing or likely wrong."""
    labels = found.labels
    if labels.task != "classes":
        return None
    if not labels.share:
        return Advice(
            "base",
            "the teacher's probabilities alone, compared in both directions",
            "no sample has a label",
            (sources.SSLD,),
            (Ssld(loss="ssld"),),
            recipe="student-soft-labels",
        )
    if labels.suspect is not None and labels.suspect > SUSPECT:
        return Advice(
            "instead",
            "the teacher's probabilities with the larger weight, or alone",
            f"{percent(labels.suspect)} of the labels are likely wrong; the answers of a teacher "
            "that learned from cleaner ones hedge that risk",
            (sources.NOISY, sources.CONFIDENT, sources.SSLD),
            (Ssld(loss="ssld"),),
            recipe="student-soft-labels",
        )
    return None


def dense(found: Findings) -> Advice | None:
    """Say what to begin with for maps."""
    if found.labels.task != "dense":
        return None
    return Advice(
        "base",
        "KL over the places of each channel, beside the output itself",
        "the output is a map, with an answer at every place",
        (sources.CHANNEL_WISE,),
        (RelativeMse(loss="mse"), ChannelWise(loss="channel-wise")),
    )


def numbers(found: Findings) -> Advice | None:
    """Say what to begin with for regression and embeddings."""
    if found.labels.task != "numbers":
        return None
    return Advice(
        "base",
        "the distance to the teacher's output, beside the truth where there is one, and most where "
        "the teacher is close to it",
        "the output is no class logits: there are no probabilities that tell more than an answer",
        (sources.REGRESSION,),
        (RelativeMse(loss="mse"),),
        recipe="student-distilled",
    )


def few_classes(found: Findings) -> Advice | None:
    """Say what probabilities of few classes lack."""
    classes = found.labels.classes
    if classes is None or classes > FEW_CLASSES or not found.labels.share:
        return None
    return Advice(
        "add",
        "parts of each class along the teacher's features: they tell more than its probabilities",
        f"{classes} classes: what probabilities tell of the teacher grows with the classes",
        (sources.FEW_CLASSES,),
        (Subclasses(loss="subclasses"),),
    )


def gap(found: Findings) -> Advice | None:
    """Say what a smaller student need not match."""
    ratio, classes = found.capacity.parameters, found.labels.classes
    if ratio < GAP or classes is None or classes < 3:
        return None
    return Advice(
        "instead",
        "KL on standardised logits",
        f"the teacher has {ratio:.1f} times the parameters: a smaller student need not match the "
        "range of its logits, only their relations",
        (sources.STANDARDIZATION,),
        (StandardizedKl(loss="standardized-kl", weight=9.0),),
        (("label_weight", 0.1),),
    )


def unlike(found: Findings) -> Advice | None:
    """Say what can be compared where features cannot."""
    pair = kinds(found)
    if found.labels.task != "classes" or not found.labels.share or pair is None:
        return None
    if pair not in (("map", "tokens"), ("tokens", "map")):
        return None
    return Advice(
        "add",
        "branches from the student's blocks to logits, with the right class stressed",
        f"the student computes {words(pair[0])}, the teacher {words(pair[1])}: features of "
        "unlike architectures diverge, their logits can be compared",
        (sources.ONE_FOR_ALL,),
        (OneForAll(loss="one-for-all"),),
        (("label_weight", 1.0),),
        "student-across-architectures",
    )


def transformer_to_cnn(found: Findings) -> Advice | None:
    """Say what a transformer can show a CNN."""
    if kinds(found) != ("map", "tokens") or not _fills_a_square(found.matches[-1].peer):
        return None
    with_classes = found.labels.task == "classes" and found.labels.share > 0
    heads = _divisor(found.matches[-1].peer.shape[-1], 8)
    return Advice(
        "instead",
        "the teacher's last map in two views, through a projector with attention",
        "a transformer teaches a convolutional network",
        (sources.SCALE_KD,),
        (ScaleKd(loss="scale-kd", heads=heads), Kl(loss="kl", weight=0.5, temperature=1.0))
        if with_classes
        else (ScaleKd(loss="scale-kd", heads=heads),),
        (("label_weight", 0.5),) if with_classes else (),
        "student-from-transformer" if with_classes and heads == 8 else None,
    )


def cnn_to_transformer(found: Findings) -> Advice | None:
    """Say what a CNN can tell a transformer."""
    if kinds(found) != ("tokens", "map") or found.labels.task != "classes":
        return None
    return Advice(
        "instead",
        "the teacher's class as a second label",
        "a convolutional network teaches a transformer, for which its hard answers did better than "
        "its probabilities",
        (sources.DEIT,),
        (HardClass(loss="hard-class", weight=0.5),),
        (("label_weight", 0.5),) if found.labels.share else (),
    )


def tokens(found: Findings) -> Advice | None:
    """Say what two transformers have in common."""
    if kinds(found) != ("tokens", "tokens"):
        return None
    last = found.matches[-1]
    heads = _divisor(math.gcd(last.student.shape[-1], last.peer.shape[-1]), 12)
    return Advice(
        "add",
        "relations between tokens in attention, which have no width to fit",
        "both networks compute tokens",
        (sources.MINILM,),
        (MiniLm(loss="minilm", heads=heads),),
    )


def hints(found: Findings) -> Advice | None:
    """Say where hints make sense."""
    if found.hints.verdict != "yes":
        return None
    names = ", ".join(f"{m.student.name} from {m.peer.name}" for m in found.hints.places[-3:])
    return Advice(
        "add",
        f"hints through projectors; the deepest places that fit: {names}",
        found.hints.reason,
        (sources.FITNETS, sources.ONE_FOR_ALL, sources.KORNBLITH),
        (Hint(loss="hint"),),
    )


def measured(found: Findings) -> Advice | None:
    """Say which loss gained most in the benchmark."""
    own = kinds(found)
    if found.labels.task != "classes" or own is None:
        return None
    better = [g for g in benchmark.GAINS if g.student == own[0] and g.counts and g.loss != "kl"]
    if not better:
        return None
    best = max(better, key=lambda gain: gain.points)
    entry: LossSettings = TypeAdapter(LossSettings).validate_python({"loss": best.loss})
    return Advice(
        "instead",
        f"{best.loss}{' beside plain KL' if best.with_kl else ''}, which gained most over plain KL "
        f"where a student of {words(best.student)} was trained",
        f"{best}: more than {benchmark.ERRORS:g} standard errors",
        (sources.BENCHMARK,),
        (entry, Kl(loss="kl")) if best.with_kl else (entry,),
    )


def _divisor(width: int, most: int) -> int:
    """Return the largest number of heads, at most ``most``, that share ``width`` channels."""
    return next(heads for heads in range(most, 0, -1) if width % heads == 0)


def _fills_a_square(feature: Feature) -> bool:
    """Tell whether tokens are a square of patches behind at most eight others."""
    side = math.isqrt(feature.shape[0])
    return side > 1 and feature.shape[0] - side**2 <= 8
