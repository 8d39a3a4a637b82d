"""Marks for members of a parametrization."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def with_slow(members: Iterable[Any], slow: Collection[Any]) -> list[Any]:
    """Return parameters for ``pytest.mark.parametrize``, those in ``slow`` marked as slow.

    Tuples are taken apart as ``parametrize`` does. Raises ValueError where ``slow`` names none.
    """
    given = list(members)
    unknown = [member for member in slow if member not in given]
    if unknown:
        raise ValueError(f"not among the parameters: {unknown}")
    return [
        pytest.param(
            *(member if isinstance(member, tuple) else (member,)),
            marks=pytest.mark.slow if member in slow else (),
        )
        for member in given
    ]
