"""Options that several commands share, and the reading of comma lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar, overload

import typer


class Runtime(StrEnum):
    """What can run a model on this machine."""

    onnxruntime = "onnxruntime"
    openvino = "openvino"


class Precision(StrEnum):
    """What float layers are computed in."""

    f32 = "f32"
    bf16 = "bf16"


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]

Threads = Annotated[int, typer.Option(min=1, help="Threads of one call.")]
Batch = Annotated[int, typer.Option(min=1, help="Samples in one call.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="Measure on a board: ssh://user@host[:port], or a host of ssh's configuration.",
        show_default="this machine",
    ),
]
DevicePython = Annotated[
    str, typer.Option(help="The board's Python, 3.8 or later, with onnxruntime.")
]
SshConfig = Annotated[
    Path | None, typer.Option(help="Configuration for ssh.", show_default="ssh's own", exists=True)
]
AllowThrottling = Annotated[
    bool, typer.Option(help="Take the numbers of a machine that was slowed down.")
]

T = TypeVar("T")


def comma_list(option: str, text: str | None, kind: Callable[[str], T]) -> tuple[T, ...] | None:
    """Read ``0.1,0.2`` as a tuple of ``kind``; a usage error that names ``option`` if it is not."""
    if text is None:
        return None
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list of fitting numbers with commas between them", param_hint=option
        ) from None


def finite(text: str) -> float:
    """Read a number; ValueError for nan and infinity, which compare in surprising ways."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


@overload
def fraction(option: str, text: str) -> float: ...


@overload
def fraction(option: str, text: None) -> None: ...


def fraction(option: str, text: str | None) -> float | None:
    """Read ``2%`` as 0.02; a usage error that names ``option`` if it is no percentage from 0."""
    if text is None:
        return None
    number, sign, rest = text.strip().partition("%")
    try:
        value = finite(number) / 100
    except ValueError:
        value = -1.0
    if not sign or rest or value < 0:
        raise typer.BadParameter(f"{text!r} is no percentage; write it like 2%", param_hint=option)
    return value


def length(text: str) -> int:
    """Read the length of an axis; ValueError unless it is a whole number above 0."""
    number = int(text)
    if number < 1:
        raise ValueError(f"{text} is not above 0")
    return number


def check_finite(number: float | None) -> float | None:
    """Refuse ``nan`` and ``inf`` as the value of an option."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"{number} is not a finite number")
    return number
