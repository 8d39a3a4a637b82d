"""What is written is what protobuf's own parser reads."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from edgekd.deploy.pbtxt import Message, Word, quote, to_text
from edgekd.errors import BundleError


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(schema, text: str) -> None:
    config = text_format.Parse(f"name: {quote(text)}", schema.ModelConfig())
    assert config.name == text


def test_a_literal_is_ascii_on_one_line() -> None:
    assert quote('a"\\\n\té\x7f') == r'"a\"\\\012\011\303\251\177"'


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(BundleError, match="cannot be written as UTF-8"):
        quote("\ud800")


def test_nested_and_repeated_fields(schema) -> None:
    group = Message((("count", 2), ("kind", Word("KIND_CPU")), ("gpus", (0, 1))))
    empty = Message((("reshape", Message((("shape", ()),))),))
    text = to_text(
        Message((("instance_group", group), ("instance_group", group), ("input", empty)))
    )

    config = text_format.Parse(text, schema.ModelConfig())

    assert [(list(g.gpus), g.kind) for g in config.instance_group] == [([0, 1], 2)] * 2
    assert config.input[0].HasField("reshape") and not config.input[0].reshape.shape
