"""Write protobuf's text format (protobuf.dev, "Text Format Language Specification")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from edgekd.errors import BundleError


@dataclass(frozen=True)
class Word:
    """A value that stands without quotes: an enum's name, ``true`` or ``false``."""

    text: str


# A message is its fields in order; a field that comes several times is a repeated one.
Scalar: TypeAlias = str | int | Word
Value: TypeAlias = "Scalar | Sequence[int] | Message"


@dataclass(frozen=True)
class Message:
    """The fields of a message: name and value."""

    fields: tuple[tuple[str, Value], ...] = ()


def to_text(message: Message) -> str:
    """Return the message in text format, two spaces a level; raises BundleError as ``quote``."""
    return "".join(f"{line}\n" for line in _lines(message))


def quote(text: str) -> str:
    """Return ``text`` as a string literal: ASCII only, everything else as octal escapes of UTF-8.

    Raises BundleError for half a surrogate pair, which no UTF-8 has.
    """
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BundleError(f"the name {text!r} cannot be written as UTF-8: rename it") from error
    return '"' + "".join(map(_escape, content)) + '"'


def _escape(byte: int) -> str:
    if byte in b'"\\':
        return f"\\{chr(byte)}"
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"


def _lines(message: Message) -> list[str]:
    lines = []
    for name, value in message.fields:
        if isinstance(value, Message):
            inner = [f"  {line}" for line in _lines(value)]
            lines += [f"{name} {{", *inner, "}"]
        else:
            lines.append(f"{name}: {_scalar(value)}")
    return lines


def _scalar(value: Scalar | Sequence[int]) -> str:
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, Word):
        return value.text
    if isinstance(value, int):
        return str(value)
    return f"[{', '.join(map(str, value))}]"
