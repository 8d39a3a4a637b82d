"""How sparsity rises while a network trains."""

from __future__ import annotations


def cubic_sparsity(progress: float, final: float, initial: float = 0.0) -> float:
    """Return the sparsity when ``progress`` (0 to 1, beyond that clipped) of the ramp is done.

    ``s = s_f + (s_i - s_f) (1 - progress)^3``: most weights go at the beginning, when many are
    redundant, and few at the end. (Zhu & Gupta, arXiv 1710.01878, eq. 1.)
    """
    done = min(1.0, max(0.0, progress))
    return final + (initial - final) * (1.0 - done) ** 3
