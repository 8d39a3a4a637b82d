"""Every rule can speak, says what a source says, and one loss is the one to begin with."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from advice_pairs import MAP, TOKENS, match
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from edgekd.advice import how_rules, loss_rules, measured, rules, sources
from edgekd.advice.capacity import Capacity, CapacityRatio
from edgekd.advice.findings import Findings
from edgekd.advice.hints import Hints, judge_hints
from edgekd.advice.labels import Labels, TeacherQuality
from edgekd.advice.measured import Gain
from edgekd.advice.rules import apply_rules
from edgekd.loss_settings import LossSettings
from edgekd.recipe import list_recipes, load_recipe
from edgekd.training_settings import DistillStage

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


GAINS = (
    Gain("hint", "map", True, 1.5, 0.2),
    Gain("ssld", "map", False, 0.9, 0.1),
    Gain("squarehead", "map", False, 3.0, 2.0),
    Gain("kl", "map", False, 0.0, 0.3),
    Gain("taid", "tokens", False, 4.0, 0.1),
)
CASES = {
    "plain": FOUND,
    "without_labels": replace(FOUND, labels=replace(LABELS, share=0.0, per_class=None)),
    "dense": replace(FOUND, labels=replace(LABELS, task="dense", classes=None), teacher=None),
    "numbers": replace(FOUND, labels=replace(LABELS, task="numbers", classes=None), teacher=None),
    "few_classes": replace(FOUND, labels=replace(LABELS, classes=2)),
    "gap": replace(FOUND, capacity=sizes(300, 100)),
    "wide_gap": replace(FOUND, capacity=sizes(2000, 100)),
    "same_size": replace(FOUND, capacity=sizes(100, 100)),
    "unlike": replace(FOUND, matches=like(TOKENS, MAP)),
    "transformer_to_cnn": replace(FOUND, matches=like(MAP, TOKENS)),
    "cnn_to_transformer": replace(FOUND, matches=like(TOKENS, MAP)),
    "tokens": replace(FOUND, matches=like(TOKENS, TOKENS)),
    "hints": replace(FOUND, hints=judge_hints(like(MAP, MAP))),
    "calibration": replace(FOUND, teacher=replace(TEACHER, calibration_error=0.2, temperature=2)),
    "known_by_heart": replace(FOUND, labels=replace(LABELS, disagreement=0.001)),
    "missing_classes": replace(FOUND, labels=replace(LABELS, per_class=(0, 100))),
    "patience": FOUND,
    "measured": FOUND,
}


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_every_rule_speaks_with_a_source_and_what_the_stage_accepts(
    rule: rules.Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "GAINS", GAINS)
    advice = rule(CASES[rule.__name__])
    assert advice is not None
    assert advice.sources
    assert all(source in vars(sources).values() for source in advice.sources)
    assert (advice.role == "how") or advice.losses, "a loss is named by what a recipe has"
    if snippet := advice.snippet():
        stage = DistillStage.model_validate({"stage": "distill", **snippet})
        assert not advice.losses or stage.losses == advice.losses
    if advice.recipe is not None:
        assert advice.recipe in list_recipes()
        named = {entry.loss for s in load_recipe(advice.recipe).stages for entry in losses_of(s)}
        assert not advice.losses or {entry.loss for entry in advice.losses} & (
            named or {"kl", "mse"}
        )


def losses_of(stage: object) -> tuple:
    return (isinstance(stage, DistillStage) and stage.losses) or ()


def named(found: Findings) -> list[tuple[str, str]]:
    return [(a.role, entry.loss) for a in apply_rules(found) for entry in a.losses]


def test_an_ordinary_pair_hears_little_but_what_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [advice.role for advice in apply_rules(FOUND)] == ["base", "instead", "how"]
    monkeypatch.setattr(measured, "GAINS", ())
    assert [advice.role for advice in apply_rules(FOUND)] == ["base", "how"]


def test_noisy_labels_speak_against_labels() -> None:
    noisy = replace(FOUND, labels=replace(LABELS, suspect=0.3))
    assert ("instead", "ssld") in named(noisy)


def test_two_classes_get_no_standardised_logits() -> None:
    found = replace(FOUND, capacity=sizes(500, 100), labels=replace(LABELS, classes=2))
    assert "standardized-kl" not in [loss for _, loss in named(found)]


def test_a_larger_student_is_told_of_regularisation() -> None:
    advice = how_rules.same_size(replace(FOUND, capacity=sizes(50, 100)))
    assert advice is not None and "regulariser" in advice.what


def test_what_was_measured_stands_beside_the_loss_and_the_best_is_advice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert loss_rules.measured(replace(FOUND, matches=())) is None
    monkeypatch.setattr(measured, "GAINS", GAINS)
    noisy = replace(FOUND, labels=replace(LABELS, suspect=0.3))
    said = apply_rules(noisy)
    (ssld,) = [a for a in said if [entry.loss for entry in a.losses] == ["ssld"]]
    assert ssld.gains == (GAINS[1],)
    (best,) = [a for a in said if a.sources == (sources.BENCHMARK,)]
    assert best.snippet()["losses"] == [{"loss": "hint"}, {"loss": "kl"}]
    assert "hint with kl +1.50 points (+- 0.20)" in best.because


def tables_of_the_page() -> dict[tuple[str, str, bool], tuple[float, float]]:
    """Return points and standard error by student, loss and whether KL stands beside it."""
    page = (ROOT / "docs" / measured.PAGE).read_text("utf-8")
    found, student = {}, None
    for line in page.splitlines():
        if "all against kl" in line:
            student = {"half_resnet20": "map", "vit": "tokens"}[line.split()[0]]
        elif line.startswith("```"):
            student = None
        row = re.match(r"(.+?)  +.* ([+-][\d.]+) \+- ([\d.]+) \([+-][\d.]+\)", line)
        if student is None or row is None or "," in row[1]:
            continue
        loss, *beside = row[1].split(" + ")
        if loss not in ("labels only", "kl") and len(beside) < 2:
            found[student, loss, beside == ["kl"]] = (float(row[2]), float(row[3]))
    return found


def test_the_figures_are_those_of_the_page_and_all_of_them() -> None:
    said = {(g.student, g.loss, g.with_kl): (g.points, g.error) for g in measured.GAINS}
    assert said == tables_of_the_page() and len(said) > 100
    known = TypeAdapter(LossSettings)
    for gain in measured.GAINS:
        assert known.validate_python({"loss": gain.loss}).loss == gain.loss


def test_heads_fit_the_widths_of_the_pair() -> None:
    (tokens,) = [a for a in apply_rules(CASES["tokens"]) if a.role == "add"]
    assert tokens.snippet() == {"losses": [{"loss": "minilm", "heads": 8}]}
    odd = replace(FOUND, matches=like(MAP, ("tokens", (17, 6))))
    (views,) = [a for a in apply_rules(odd) if "two views" in a.what]
    assert views.losses[0].heads == 6 and views.recipe is None
    vectors = replace(FOUND, matches=like(MAP, ("tokens", (60, 8))))
    assert not [a for a in apply_rules(vectors) if "two views" in a.what], "no square"


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
