"""Rules about everything but the choice of a loss. Each repeats its sources."""

from __future__ import annotations

from edgekd.advice import sources
from edgekd.advice.findings import (
    BY_HEART,
    MISCALIBRATED,
    SAME,
    WIDE_GAP,
    Advice,
    Findings,
    percent,
)
from edgekd.loss_settings import Kl, Repeated


def wide_gap(found: Findings) -> Advice | None:
    """Warn of a teacher that is too large."""
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


def same_size(found: Findings) -> Advice | None:
    """Say what to expect of a student as large as its teacher, or larger."""
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
            (Repeated(loss="repeated", label_share="auto"),) if found.labels.share else (),
            recipe="self-distilled" if found.labels.share else None,
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


def calibration(found: Findings) -> Advice | None:
    """Say how to correct a teacher that is too sure, or not sure enough."""
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
        keys=(("teacher_temperature", round(teacher.temperature, 2)),),
    )


def known_by_heart(found: Findings) -> Advice | None:
    """Warn of a teacher that knows the samples by heart."""
    labels, teacher = found.labels, found.teacher
    if teacher is None or teacher.accuracy is None or labels.disagreement is None:
        return None
    wrong = 1 - teacher.accuracy
    if wrong == 0 or labels.disagreement > BY_HEART * wrong:
        return None
    return Advice(
        "how",
        "let the student learn from more than these samples: unlabelled ones, or mixed ones",
        f"the teacher is wrong on {percent(wrong)} of the validation samples, but on "
        f"{percent(labels.disagreement)} of the training samples: it knows these by heart, and "
        "its answers to them say little beyond their labels",
        (sources.SSLD, sources.PATIENT),
        recipe="student-soft-labels",
    )


def missing_classes(found: Findings) -> Advice | None:
    """Say what to do for classes without a sample."""
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
        (Kl(loss="kl"),),
        (("label_weight", 0.1),),
    )


def patience(found: Findings) -> Advice | None:
    """Say what holds for every training."""
    if found.labels.task != "classes":
        return None
    return Advice(
        "how",
        "train long, and let the teacher see the same augmented sample as the student",
        f"{found.labels.samples} samples: distillation goes on improving long after labels do, and "
        "answers stored without the augmentation hurt",
        (sources.PATIENT,),
    )
