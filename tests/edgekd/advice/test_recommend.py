"""One shipped recipe for every pair, and the command that runs it."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from advice_pairs import MAP, TOKENS, match
from edgekd_cli.app import app
from hypothesis import given
from hypothesis import strategies as st

from edgekd.advice import recommend as module
from edgekd.advice import sources
from edgekd.advice.capacity import Capacity, CapacityRatio
from edgekd.advice.findings import Findings
from edgekd.advice.hints import Hints
from edgekd.advice.labels import Labels
from edgekd.advice.pair import AdviceRequest
from edgekd.advice.recommend import command, recommend
from edgekd.recipe import list_recipes

LABELS = Labels("classes", 100, 10, 1.0, (10,) * 10, 100, 0.1, 0.0)
SIZES = CapacityRatio(Capacity(150, 150), Capacity(100, 100))
FOUND = Findings(SIZES, (match(MAP, MAP),), Hints("no", ""), LABELS, None)


@pytest.mark.parametrize(
    ("found", "recipe"),
    [
        (FOUND, "student-distilled"),
        (replace(FOUND, labels=replace(LABELS, task="numbers")), "student-distilled"),
        (replace(FOUND, labels=replace(LABELS, share=0.0)), "student-soft-labels"),
        (replace(FOUND, labels=replace(LABELS, share=0.3)), "student-soft-labels"),
        (replace(FOUND, labels=replace(LABELS, suspect=0.2)), "student-soft-labels"),
        (replace(FOUND, matches=(match(MAP, TOKENS),)), "student-across-architectures"),
        (replace(FOUND, matches=(match(TOKENS, MAP),)), "student-across-architectures"),
        (replace(FOUND, matches=()), "student-distilled"),
        (replace(FOUND, capacity=CapacityRatio(*[SIZES.student] * 2)), "self-distilled"),
    ],
)
def test_the_recipe_that_fits(found: Findings, recipe: str) -> None:
    assert recommend(found).recipe == recipe


@given(
    st.sampled_from(["classes", "dense", "numbers"]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([None, 0.0, 0.5]),
    st.sampled_from([(MAP, MAP), (MAP, TOKENS), (TOKENS, TOKENS)]),
    st.integers(1, 300),
)
def test_there_is_always_one_that_is_shipped(
    task: str, share: float, suspect: float | None, sides: tuple, size: int
) -> None:
    labels = replace(LABELS, task=task, share=share, suspect=suspect)
    sizes = CapacityRatio(SIZES.teacher, Capacity(size, size))
    found = recommend(replace(FOUND, labels=labels, matches=(match(*sides),), capacity=sizes))
    assert found.recipe in list_recipes() and found.because
    assert found.sources and all(s in vars(sources).values() for s in found.sources)


REQUEST = AdviceRequest(Path("a b/t.pth"), "net.py:small", "d.npz", arch="nets.py:big")


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        (REQUEST, ["--student", "net.py:small"]),
        (
            replace(REQUEST, student="s.pth", student_arch="net.py:s", mean=(0.5, 1), std=(1, 1)),
            ["--student", "net.py:s", "--student-weights", "s.pth", "--mean", "0.5,1"],
        ),
        (replace(REQUEST, student="s.pt2", unlabeled="more"), ["--student", "FILE.py:factory"]),
    ],
)
def test_the_command_is_one_that_edgekd_accepts(asked: AdviceRequest, shown: list[str]) -> None:
    text = command(asked, "student-distilled")
    words = shlex.split(text)
    assert words[:3] == ["edgekd", "compress", "a b/t.pth"]
    assert set(shown) <= set(words)
    parser = typer.main.get_command(app).commands["compress"]  # type: ignore[attr-defined]
    parsed = parser.make_context("edgekd", words[2:])
    assert parsed.params["recipe"] == "student-distilled"
    assert parsed.params["data"] == "d.npz" and parsed.params["arch"] == "nets.py:big"


def test_a_recipe_without_a_student_names_none() -> None:
    assert "--student" not in command(REQUEST, "self-distilled")
    assert module.RULES[-1](FOUND) is not None, "the last rule always speaks"
