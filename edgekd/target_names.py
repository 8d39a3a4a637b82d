"""Which targets a word may mean that is no target's name: near misses, and all that it fits."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

_NEAR = 0.9  # one wrong letter in a name of ten
_SIMILAR = 0.6


def normal(name: str) -> str:
    """Return a name as profiles write it: ``RTX 4090`` and ``rtx_4090`` are ``rtx-4090``."""
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def suggest(wanted: str, known: Mapping[str, Sequence[str]], titles: Mapping[str, str]) -> str:
    """Return `` (did you mean X?)``, `` (which one: X, Y?)`` or nothing.

    ``known`` has the names that each target answers to, its own first; ``titles`` describe them.
    A word fits a target when a word of its names or of its title begins with it.
    """
    names = [name for several in known.values() for name in several]
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=_NEAR)
    fitting = [name for name in known if _fits(wanted, (*known[name], titles[name]))]
    if near or not fitting:
        found = near or difflib.get_close_matches(wanted, names, n=1, cutoff=_SIMILAR)
        return f" (did you mean {found[0]}?)" if found else ""
    if len(fitting) == 1:
        return f" (did you mean {fitting[0]}?)"
    return f" (which one: {', '.join(fitting)}?)"


def _fits(wanted: str, texts: Sequence[str]) -> bool:
    words = {word for text in texts for word in _words(text)}
    parts = _words(wanted)
    return bool(parts) and all(any(word.startswith(part) for word in words) for part in parts)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())
