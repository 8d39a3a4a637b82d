"""JSON that has one meaning is read as Python reads it; anything else is refused in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.errors import BundleError
from edgekd.runtime.strict_json import DEEPEST, parse_json

WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=8)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
)


@given(PLAIN)
def test_reads_what_python_writes(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False)):
        assert parse_json(text.encode(), "x.json") == value


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        value = parse_json(content, "x.json")
    except BundleError as error:
        assert str(error).isprintable() and len(str(error)) < 600
    else:
        assert value == json.loads(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 1}}', "the key 'c' is given twice"),
        ("[NaN]", "NaN is not JSON"),
        ("[-1e999]", "too large"),
        ("[" + "1" * 41 + "]", "a number of 41 digits"),
        ('["\\u001b"]', "control characters"),
        ('{"\\udc00": 1}', "control characters"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), f"more than {DEEPEST} levels"),
        ("[" * 10**5, "recursion"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        parse_json(text.encode(), "x.json")


def test_takes_what_is_just_allowed() -> None:
    parse_json(("[" * DEEPEST + "]" * DEEPEST).encode(), "x.json")
    parse_json(("[" * DEEPEST + "1" + "]" * DEEPEST).encode(), "x.json")
    assert parse_json(b'["a\\tb\\nc", ' + b"1" * 40 + b"]", "x.json")[0] == "a\tb\nc"
