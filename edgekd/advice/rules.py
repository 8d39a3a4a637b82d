"""When which loss is worth a try: the table of rules, each with its source.

A rule is a function of what was found; it says what to do and why, or nothing. It may only repeat
what its sources measured. ``RULES`` at the end is the table, in the order in which advice is shown.

From the benchmark: a rule that a table of ``benchmarks/`` supports is written in the same way, with
a ``Source`` of the kind ``benchmark`` that names the page with the table.

Numbers below are limits of ours: the sources say in which direction to go, not where to start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edgekd.advice import sources
from edgekd.advice.capacity import CapacityRatio
from edgekd.advice.features import Match
from edgekd.advice.hints import Hints
from edgekd.advice.labels import Labels, TeacherQuality
from edgekd.advice.sources import Source

GAP = 2.0  # times the parameters, above which standardised logits are worth a comparison
WIDE_GAP = 10.0  # above which a smaller teacher is
FEW_CLASSES = 5
SUSPECT = 0.1  # share of labels that are likely wrong
MISCALIBRATED = 0.05  # expected calibration error
BY_HEART = 0.2  # times the share of errors on validation samples
SAME = 0.01  # relative difference of parameters and multiply-accumulates


@dataclass(frozen=True)
class Findings:
    """All that rules may look at. ``teacher`` is None where the output is no class logits."""

    capacity: CapacityRatio
    matches: tuple[Match, ...]
    hints: Hints
    labels: Labels
    teacher: TeacherQuality | None


@dataclass(frozen=True)
class Advice:
    """One recommendation.

    ``role``: ``base`` is the loss to begin with, ``add`` goes beside it, ``instead`` is to be
    compared with it, ``how`` is no loss. ``algorithm`` is the file in ``edgekd/algorithms`` that
    has the loss, ``loss`` its name in a recipe where it has one.
    """

    role: Literal["base", "add", "instead", "how"]
    what: str
    because: str
    sources: tuple[Source, ...]
    loss: str | None = None
    algorithm: str | None = None


Rule = Callable[[Findings], Advice | None]


def _plain(found: Findings) -> Advice | None:
    if found.labels.task != "classes" or not found.labels.share:
        return None
    return Advice(
        "base",
        "plain KL on the logits at a raised temperature, with the labels beside it",
        f"class logits ({found.labels.classes} classes), and {_percent(found.labels.share)} of the "
        "samples have labels",
        (sources.HINTON,),
        "kl",
        "kd_loss",
    )


def _without_labels(found: Findings) -> Advice | None:
    labels = found.labels
    if labels.task != "classes":
        return None
    if not labels.share:
        return Advice(
            "base",
            "the teacher's probabilities alone, compared in both directions",
            "no sample has a label",
            (sources.SSLD,),
            "ssld",
            "ssld",
        )
    if labels.suspect is not None and labels.suspect > SUSPECT:
        return Advice(
            "instead",
            "the teacher's probabilities with the larger weight, or alone",
            f"{_percent(labels.suspect)} of the labels are likely wrong; the answers of a teacher "
            "that learned from cleaner ones hedge that risk",
            (sources.NOISY, sources.CONFIDENT, sources.SSLD),
            "ssld",
            "ssld",
        )
    return None


def _dense(found: Findings) -> Advice | None:
    if found.labels.task != "dense":
        return None
    return Advice(
        "base",
        "KL over the places of each channel",
        "the output is a map, with an answer at every place",
        (sources.CHANNEL_WISE,),
        algorithm="channel_wise_loss",
    )


def _numbers(found: Findings) -> Advice | None:
    if found.labels.task != "numbers":
        return None
    return Advice(
        "base",
        "the distance to the teacher's output, beside the truth where there is one, and most where "
        "the teacher is close to it",
        "the output is no class logits: there are no probabilities that tell more than an answer",
        (sources.REGRESSION,),
        "mse",
        "kd_loss",
    )


def _few_classes(found: Findings) -> Advice | None:
    classes = found.labels.classes
    if classes is None or classes > FEW_CLASSES or not found.labels.share:
        return None
    return Advice(
        "instead",
        "pseudo-subclasses from the teacher's embeddings",
        f"{classes} classes: what probabilities tell of the teacher grows with the classes",
        (sources.FEW_CLASSES,),
        algorithm="subclasses",
    )


def _gap(found: Findings) -> Advice | None:
    ratio, classes = found.capacity.parameters, found.labels.classes
    if ratio < GAP or classes is None or classes < 3:
        return None
    return Advice(
        "instead",
        "KL on standardised logits",
        f"the teacher has {ratio:.1f} times the parameters: a smaller student need not match the "
        "range of its logits, only their relations",
        (sources.STANDARDIZATION,),
        "standardized-kl",
        "standardized_kl",
    )


def _wide_gap(found: Findings) -> Advice | None:
    ratio = found.capacity.parameters
    if ratio < WIDE_GAP:
        return None
    return Advice(
        "how",
        "compare with a smaller teacher, or one whose training was stopped earlier",
        f"the teacher has {ratio:.1f} times the parameters, and small students cannot mimic large "
        "teachers; whether a network between the two helps is disputed (first source: yes, second: "
        "no)",
        (sources.ASSISTANT, sources.EFFICACY),
    )


def _same_size(found: Findings) -> Advice | None:
    ratios = (found.capacity.parameters, found.capacity.macs)
    if found.labels.task != "classes":
        return None
    if all(abs(ratio - 1) <= SAME for ratio in ratios):
        return Advice(
            "how",
            "a student of the teacher's own size may surpass it; keep the labels in the loss if "
            "this is repeated",
            "both networks have the same size; without labels, repeated self-distillation shrinks "
            "what is learned",
            (sources.BORN_AGAIN, sources.GUIDANCE),
        )
    if max(ratios) >= 1:
        return None
    return Advice(
        "how",
        "expect the effect of a regulariser",
        f"the teacher is the smaller network ({ratios[0]:.2f} times the parameters): such teachers "
        "help as smoothed labels do",
        (sources.REVISITING,),
    )


def _unlike(found: Findings) -> Advice | None:
    kinds = _kinds(found)
    if found.labels.task != "classes" or not found.labels.share or kinds is None:
        return None
    if kinds not in (("map", "tokens"), ("tokens", "map")):
        return None
    return Advice(
        "add",
        "branches from the student's blocks to logits, with the right class stressed",
        f"the student computes {_words(kinds[0])}, the teacher {_words(kinds[1])}: features of "
        "unlike architectures diverge, their logits can be compared",
        (sources.ONE_FOR_ALL,),
        algorithm="one_for_all",
    )


def _transformer_to_cnn(found: Findings) -> Advice | None:
    if _kinds(found) != ("map", "tokens"):
        return None
    return Advice(
        "instead",
        "the teacher's last map in two views, through a projector with attention",
        "a transformer teaches a convolutional network",
        (sources.SCALE_KD,),
        algorithm="scale_kd",
    )


def _cnn_to_transformer(found: Findings) -> Advice | None:
    if _kinds(found) != ("tokens", "map") or found.labels.task != "classes":
        return None
    return Advice(
        "instead",
        "the teacher's class as a second label",
        "a convolutional network teaches a transformer, for which its hard answers did better than "
        "its probabilities",
        (sources.DEIT,),
    )


def _tokens(found: Findings) -> Advice | None:
    if _kinds(found) != ("tokens", "tokens"):
        return None
    return Advice(
        "add",
        "relations between tokens in attention, which have no width to fit",
        "both networks compute tokens",
        (sources.MINILM,),
        algorithm="minilm",
    )


def _hints(found: Findings) -> Advice | None:
    if found.hints.verdict != "yes":
        return None
    names = ", ".join(f"{m.student.name} from {m.peer.name}" for m in found.hints.places[-3:])
    return Advice(
        "add",
        f"hints through projectors; the deepest places that fit: {names}",
        found.hints.reason,
        (sources.FITNETS, sources.ONE_FOR_ALL, sources.KORNBLITH),
        algorithm="hint_loss",
    )


def _calibration(found: Findings) -> Advice | None:
    teacher = found.teacher
    if teacher is None or teacher.calibration_error is None or teacher.temperature is None:
        return None
    if teacher.calibration_error <= MISCALIBRATED:
        return None
    how = "surer" if teacher.temperature > 1 else "less sure"
    return Advice(
        "how",
        f"divide the teacher's logits by {teacher.temperature:.2f} before anything else",
        f"the teacher is {how} than it is right (calibration error "
        f"{teacher.calibration_error:.3f}); a teacher is as good as its probabilities are",
        (sources.GUO, sources.STATISTICAL),
        algorithm="temperature",
    )


def _known_by_heart(found: Findings) -> Advice | None:
    labels, teacher = found.labels, found.teacher
    if teacher is None or teacher.accuracy is None or labels.disagreement is None:
        return None
    wrong = 1 - teacher.accuracy
    if wrong == 0 or labels.disagreement > BY_HEART * wrong:
        return None
    return Advice(
        "how",
        "let the student learn from more than these samples: unlabelled ones, or mixed ones",
        f"the teacher is wrong on {_percent(wrong)} of the validation samples, but on "
        f"{_percent(labels.disagreement)} of the training samples: it knows these by heart, and "
        "its answers to them say little beyond their labels",
        (sources.SSLD, sources.PATIENT),
    )


def _missing_classes(found: Findings) -> Advice | None:
    counts = found.labels.per_class
    missing = [] if counts is None else [str(i) for i, count in enumerate(counts) if not count]
    if not missing:
        return None
    named = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    return Advice(
        "how",
        "give the teacher's probabilities the larger weight, and look at these classes later",
        f"no training sample has class {named}: the student hears of it from the teacher only, "
        "which can suffice (section 3)",
        (sources.HINTON,),
    )


def _patience(found: Findings) -> Advice | None:
    if found.labels.task != "classes":
        return None
    return Advice(
        "how",
        "train long, and let the teacher see the same augmented sample as the student",
        f"{found.labels.samples} samples: distillation goes on improving long after labels do, and "
        "answers stored without the augmentation hurt",
        (sources.PATIENT,),
    )


RULES: tuple[Rule, ...] = (
    _plain,
    _without_labels,
    _dense,
    _numbers,
    _few_classes,
    _gap,
    _unlike,
    _transformer_to_cnn,
    _cnn_to_transformer,
    _tokens,
    _hints,
    _wide_gap,
    _same_size,
    _calibration,
    _known_by_heart,
    _missing_classes,
    _patience,
)


def apply_rules(found: Findings) -> tuple[Advice, ...]:
    """Return what the rules say; exactly one of it is ``base``, and that comes first."""
    said = [advice for rule in RULES if (advice := rule(found)) is not None]
    return tuple(sorted(said, key=lambda advice: advice.role != "base"))


def _kinds(found: Findings) -> tuple[str, str] | None:
    """Return what most features of student and teacher are, None without any."""
    if not found.matches:
        return None
    own = [match.student.kind for match in found.matches]
    others = [match.peer.kind for match in found.matches]
    return max(sorted(set(own)), key=own.count), max(sorted(set(others)), key=others.count)


def _words(kind: str) -> str:
    return kind if kind == "tokens" else f"{kind}s"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
