"""How far a gate can be trusted on this machine: a model against itself and against slower copies.

The slower copies do extra work in each call. Many gates are then drawn from the measured processes,
each a random order of them without repetition, decided as a real gate decides.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgekd.bench.pairs import centre
from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import Variant
from edgekd.errors import MeasurementError
from edgekd.gate.decision import LOOKS, Verdict, decide
from edgekd.gate.latency import BASELINE, CANDIDATE, rounds_for, run_process
from edgekd.progress import Progress, Silent

EFFECTS = (0.0, 0.01, 0.03, 0.05)
_GATES = 1000
_RESAMPLES, _GATES_EACH = 100, 50
_FIRST_EXTRA = 100
_CALIBRATIONS = 3


@dataclass(frozen=True)
class Rates:
    """How gates end that are drawn from measured processes.

    ``found`` is the share that ends as a regression, with a 95 % interval by resampling the
    processes; ``passed`` and ``inconclusive`` are shares too. ``processes`` is what one gate took
    on average, ``measured`` how many processes there are to draw from.
    """

    found: float
    low: float
    high: float
    passed: float
    inconclusive: float
    processes: float
    measured: int


@dataclass(frozen=True)
class SelfTestRow:
    """One kind of copy: how much slower it should be and was, as fractions; and what gates say.

    ``spread`` is the standard deviation of the processes' log ratios.
    """

    slower: float
    measured_slower: float
    spread: float
    rates: Rates

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def self_test(
    model: Variant,
    max_regression: float,
    *,
    protocol: Protocol,
    seconds: float,
    gate_budget_s: float = 60.0,
    progress: Progress | None = None,
) -> tuple[SelfTestRow, ...]:
    """Measure for ``seconds`` and return a row for each of ``EFFECTS``.

    Raises MeasurementError when the model cannot be run, or when the time is too short for the
    first look of a gate.
    """
    progress = progress or Silent()
    started = time.monotonic()
    protocol, extra_of_one = _calibrate(model, protocol)
    copies = {slower: replace(model, extra=round(slower * extra_of_one)) for slower in EFFECTS}
    centres: dict[float, list[float]] = {slower: [] for slower in EFFECTS}
    begun, number = time.monotonic(), 0
    with progress.task("Testing the gate, seconds", round(seconds)) as advance:
        shown = 0
        while time.monotonic() - started < seconds:
            slower = EFFECTS[number % len(EFFECTS)]
            turn = len(centres[slower])
            centres[slower].append(_centre(model, copies[slower], protocol, turn))
            number += 1
            now = min(round(seconds), round(time.monotonic() - started))
            advance(now - shown)
            shown = now
    process_s = (time.monotonic() - begun) / max(1, number)
    if min(map(len, centres.values())) < LOOKS[0]:
        needed = math.ceil((len(EFFECTS) * LOOKS[0] * 1.2 + _CALIBRATIONS) * process_s) + 5
        raise MeasurementError(
            f"a gate needs {LOOKS[0]} processes for each of {len(EFFECTS)} kinds of copies, of "
            f"{process_s:.1f} s each: give --time-budget {needed} or more"
        )
    affordable = max(1, int(gate_budget_s / process_s) - 1)
    return tuple(
        SelfTestRow(
            slower,
            math.expm1(float(np.median(found))),
            float(np.std(found)),
            rates(found, math.log1p(max_regression), affordable),
        )
        for slower, found in centres.items()
    )


def rates(
    centres: Sequence[float],
    limit: float,
    most: int,
    gates: int = _GATES,
    resamples: int = _RESAMPLES,
) -> Rates:
    """Return how ``gates`` gates of at most ``most`` processes end, drawn from ``centres``.

    The interval is that of ``resamples`` draws of the processes themselves.
    """
    rng = random.Random(0)
    ends = [draw(centres, limit, most, rng) for _ in range(gates)]
    count = Counter(verdict for verdict, _ in ends)
    shares = []
    for _ in range(resamples):
        again = rng.choices(centres, k=len(centres))
        few = [draw(again, limit, most, rng)[0] for _ in range(_GATES_EACH)]
        shares.append(few.count("regression") / _GATES_EACH)
    low, high = np.percentile(shares, [2.5, 97.5])
    return Rates(
        found=count["regression"] / gates,
        low=float(low),
        high=float(high),
        passed=(count["pass"] + count["improvement"]) / gates,
        inconclusive=count["inconclusive"] / gates,
        processes=float(np.mean([taken for _, taken in ends])),
        measured=len(centres),
    )


def draw(
    centres: Sequence[float], limit: float, most: int, rng: random.Random
) -> tuple[Verdict, int]:
    """Return how one gate ends that meets ``centres`` in random order, and after how many."""
    order = rng.sample(list(centres), min(most, len(centres), LOOKS[-1]))
    for count in range(1, len(order) + 1):
        found = decide(order[:count], limit, last=count == len(order))
        if found is not None:
            return found.verdict, count
    raise AssertionError("the last look always decides")  # pragma: no cover


def _calibrate(model: Variant, protocol: Protocol) -> tuple[Protocol, float]:
    """Return the protocol with its rounds, and the extra work that doubles a call's time."""
    trial = run_process(_pair(model, model), replace(protocol, rounds=3), 0, None)
    protocol = replace(protocol, rounds=rounds_for(trial, math.inf, 0.0))
    extra, slower = _FIRST_EXTRA, 0.0
    while slower < 0.04 and extra < 10**7:  # large enough to be seen in a few processes
        copy = replace(model, extra=extra)
        found = [_centre(model, copy, protocol, number) for number in range(_CALIBRATIONS)]
        slower = math.expm1(float(np.median(found)))
        wanted = extra * 0.05 / slower if slower > 0.005 else extra * 8
        extra, used = min(round(wanted), extra * 8), extra
    return protocol, used / slower


def _centre(model: Variant, copy: Variant, protocol: Protocol, number: int) -> float:
    answer = run_process(_pair(model, copy), protocol, number, None)
    return centre(answer, BASELINE, CANDIDATE, protocol.clock).log_ratio


def _pair(model: Variant, copy: Variant) -> Mapping[str, Variant]:
    return {BASELINE: model, CANDIDATE: copy}
