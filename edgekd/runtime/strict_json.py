"""JSON of a file that a stranger may have written: of one meaning, bounded, and printable."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from edgekd.errors import BundleError
from edgekd.runtime.fields import shown
from edgekd.runtime.tensors import one_line

DEEPEST = 64
LONGEST_NUMBER = 40  # digits; reading a number takes time with the square of them

# Terminals obey control characters (tabs and line breaks are harmless), and halves of a surrogate
# pair cannot be printed at all.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def parse_json(content: bytes, name: str) -> Any:
    """Return the JSON data of the file ``name``.

    Stricter than the standard: a key given twice in one object has no single meaning (RFC 8259,
    section 4) and is refused, and so are NaN, infinity, numbers of more than 40 digits, more than
    64 levels, and texts with control characters. Raises BundleError, of one line.
    """
    try:
        data = json.loads(
            content.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_int=_whole_number,
            object_pairs_hook=_unique,
        )
        _check_values(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{name} is not valid JSON ({shown(one_line(error))}); copy it again"
        ) from error
    except MemoryError as error:
        raise BundleError(f"{name} does not fit into this machine's memory") from error
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole_number(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {twice[:100]!r} is given twice")
    return found


def _check_values(data: Any) -> None:
    """Look at every value once, without recursion; raises ValueError."""
    level, depth = [data], 0
    while level:
        depth += 1
        inner: list[Any] = []
        for value in level:
            if isinstance(value, (dict, list)):
                if depth > DEEPEST:
                    raise ValueError(f"more than {DEEPEST} levels")
                inner.extend(value)
                inner.extend(value.values() if isinstance(value, dict) else ())
            elif isinstance(value, str):
                if _FORBIDDEN.search(value):
                    raise ValueError("a text with control characters")
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError("a number that is too large")
        level = inner
