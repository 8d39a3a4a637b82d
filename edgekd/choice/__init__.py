"""What production is to run: each model on each runtime and precision, evaluated and timed."""

from __future__ import annotations

from edgekd.choice.candidates import Candidate, Measured
from edgekd.choice.decide import Choice, decide
from edgekd.choice.measure import choose

__all__ = ["Candidate", "Choice", "Measured", "choose", "decide"]
