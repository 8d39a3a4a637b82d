"""Every rule can speak, says what a source says, and one loss is the one to begin with."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from advice_pairs import MAP, TOKENS, match
from hypothesis import given
from hypothesis import strategies as st

from edgekd.advice import rules, sources
from edgekd.advice.capacity import Capacity, CapacityRatio
from edgekd.advice.hints import Hints, judge_hints
from edgekd.advice.labels import Labels, TeacherQuality
from edgekd.advice.rules import Findings, apply_rules

ROOT = Path(__file__).parents[3]
LABELS = Labels("classes", 100, 10, 1.0, (10,) * 10, 100, 0.1, 0.0)
TEACHER = TeacherQuality(50, 0.9, 0.9, 0.01, 1.0)
FOUND = Findings(
    CapacityRatio(Capacity(150, 150), Capacity(100, 100)),
    (match(MAP, MAP, 0.0),),
    Hints("no", ""),
    LABELS,
    TEACHER,
)


def sizes(teacher: int, student: int) -> CapacityRatio:
    return CapacityRatio(Capacity(teacher, teacher), Capacity(student, student))


def like(own: tuple, other: tuple) -> tuple:
    return (match(own, other),)


CASES = {
    "_plain": FOUND,
    "_without_labels": replace(FOUND, labels=replace(LABELS, share=0.0, per_class=None)),
    "_dense": replace(FOUND, labels=replace(LABELS, task="dense", classes=None), teacher=None),
    "_numbers": replace(FOUND, labels=replace(LABELS, task="numbers", classes=None), teacher=None),
    "_few_classes": replace(FOUND, labels=replace(LABELS, classes=2)),
    "_gap": replace(FOUND, capacity=sizes(300, 100)),
    "_wide_gap": replace(FOUND, capacity=sizes(2000, 100)),
    "_same_size": replace(FOUND, capacity=sizes(100, 100)),
    "_unlike": replace(FOUND, matches=like(TOKENS, MAP)),
    "_transformer_to_cnn": replace(FOUND, matches=like(MAP, TOKENS)),
    "_cnn_to_transformer": replace(FOUND, matches=like(TOKENS, MAP)),
    "_tokens": replace(FOUND, matches=like(TOKENS, TOKENS)),
    "_hints": replace(FOUND, hints=judge_hints(like(MAP, MAP))),
    "_calibration": replace(FOUND, teacher=replace(TEACHER, calibration_error=0.2, temperature=2)),
    "_known_by_heart": replace(FOUND, labels=replace(LABELS, disagreement=0.001)),
    "_missing_classes": replace(FOUND, labels=replace(LABELS, per_class=(0, 100))),
    "_patience": FOUND,
}


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_every_rule_speaks_with_a_source_and_code_that_is_there(rule: rules.Rule) -> None:
    advice = rule(CASES[rule.__name__])
    assert advice is not None
    assert advice.sources
    assert all(source in vars(sources).values() for source in advice.sources)
    if advice.algorithm is not None:
        assert (ROOT / "edgekd" / "algorithms" / f"{advice.algorithm}.py").is_file()


def test_an_ordinary_pair_hears_little() -> None:
    assert [advice.role for advice in apply_rules(FOUND)] == ["base", "how"]


def test_noisy_labels_speak_against_labels() -> None:
    noisy = replace(FOUND, labels=replace(LABELS, suspect=0.3))
    assert ("instead", "ssld") in [(a.role, a.loss) for a in apply_rules(noisy)]


def test_two_classes_get_no_standardised_logits() -> None:
    found = replace(FOUND, capacity=sizes(500, 100), labels=replace(LABELS, classes=2))
    assert "standardized-kl" not in [advice.loss for advice in apply_rules(found)]


def test_a_larger_student_is_told_of_regularisation() -> None:
    advice = rules._same_size(replace(FOUND, capacity=sizes(50, 100)))
    assert advice is not None and "regulariser" in advice.what


def test_every_paper_has_a_number_of_arxiv() -> None:
    found = [value for value in vars(sources).values() if isinstance(value, sources.Source)]
    assert len({source.where for source in found}) == len(found) > 15
    for source in found:
        if source.kind == "paper":
            assert re.fullmatch(r"\d{4}\.\d{4,5}", source.where)
        else:
            assert (ROOT / "docs" / source.where).is_file()


@given(
    st.sampled_from(["classes", "dense", "numbers"]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(2, 1000),
    st.integers(1, 10**6),
    st.sampled_from([None, 0.0, 0.5]),
)
def test_one_loss_to_begin_with(
    task: str, share: float, classes: int, size: int, suspect: float | None
) -> None:
    own = replace(LABELS, task=task, share=share, suspect=suspect if share else None)
    own = replace(own, classes=classes if task == "classes" else None, per_class=None)
    found = replace(FOUND, labels=own, capacity=sizes(1000, size))
    if task != "classes":
        found = replace(found, teacher=None)
    roles = [advice.role for advice in apply_rules(found)]
    assert roles.index("base") == 0 and roles.count("base") == 1
