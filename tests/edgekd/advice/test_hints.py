from __future__ import annotations

import pytest
from advice_pairs import MAP, SMALL, TOKENS, VECTOR, match
from hypothesis import given
from hypothesis import strategies as st

from edgekd.advice.features import Match
from edgekd.advice.hints import judge_hints


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        ([], "no", "no blocks"),
        ([match(MAP, MAP)], "yes", "1 of 1"),
        ([match(VECTOR, VECTOR)], "yes", "1 of 1"),
        ([match(MAP, SMALL)], "yes", "1 of 1"),
        ([match(TOKENS, MAP)], "no", "are tokens, the teacher's maps"),
        ([match(SMALL, MAP)], "no", "smaller than the teacher's"),
        ([match(MAP, MAP, 0.1, 0.1)], "no", "more like the teacher than every untrained copy"),
        ([match(MAP, MAP, chance=None)], "open", "is untrained"),
        ([match(MAP, MAP), match(MAP, MAP, 0.0)], "yes", "1 of 2"),
        ([match(MAP, MAP), match(TOKENS, MAP), match(TOKENS, MAP)], "no", "tokens"),
    ],
)
def test_the_rule(found: list[Match], verdict: str, words: str) -> None:
    hints = judge_hints(found)
    assert hints.verdict == verdict
    assert words in hints.reason


PAIRS = st.builds(
    match,
    st.sampled_from([MAP, SMALL, TOKENS, VECTOR]),
    st.sampled_from([MAP, SMALL, TOKENS, VECTOR]),
    st.floats(0, 1),
    st.floats(0, 1),
)


@given(st.lists(PAIRS, max_size=6))
def test_yes_means_that_half_of_the_places_hold_and_all_of_those_named(found: list[Match]) -> None:
    hints = judge_hints(found)
    if hints.verdict == "yes":
        assert 2 * len(hints.places) >= len(found) > 0
    for place in hints.places:
        assert place.student.kind == place.peer.kind
        assert place.similarity > (place.chance or 0)
