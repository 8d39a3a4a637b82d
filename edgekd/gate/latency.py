"""Is the candidate slower than is allowed? A duet of the two, process after process."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.bench.pairs import centre
from edgekd.bench.place import Place
from edgekd.bench.protocol import Protocol
from edgekd.bench.runner import HERE, Variant, as_job, run_worker
from edgekd.bench.turns import take_turns
from edgekd.gate.decision import FEWEST, LOOKS, Decision, Verdict, decide
from edgekd.progress import Progress, Silent

BASELINE, CANDIDATE = "baseline", "candidate"

_TIMED_MS = 600.0  # of pairs in a process; a process costs about as much to start and warm up
_PAIRS = (15, 400)  # in a process, at least and at most
_PROCESSES = 12  # that the time should suffice for; slow models get fewer pairs for it
_FEWEST_PAIRS = 5
_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class LatencyVerdict:
    """What a gate found about latency. ``change``, ``low`` and ``high`` are log ratios.

    A bound is wrong with a probability of at most ``error``. ``baseline_ms`` and ``candidate_ms``
    are medians of wall time, for the eye: the verdict is of the paired ratios, one a process in
    ``log_ratios``. ``clock`` is what they are of, ``mixed`` where processes differ. ``answers``
    are the workers' own, with every raw sample. ``note`` says what a reader has to know.
    """

    verdict: Verdict
    limit: float
    change: float
    low: float
    high: float
    error: float
    baseline_ms: float
    candidate_ms: float
    log_ratios: tuple[float, ...]
    clock: str
    seconds: float
    protocol: Protocol
    machine: Mapping[str, Any]
    runtime: str
    note: str = ""
    answers: tuple[Mapping[str, Any], ...] = ()

    def to_dict(self, *, samples: bool) -> dict[str, Any]:
        """Return plain data for JSON; bounds that are not known are null."""
        data = {**asdict(replace(self, answers=())), "processes": len(self.log_ratios)}
        del data["answers"]
        for name in ("low", "high"):
            data[name] = data[name] if math.isfinite(data[name]) else None
        data["protocol"] = self.protocol.to_dict()
        return {**data, "answers": list(self.answers)} if samples else data


def gate_latency(
    baseline: Variant,
    candidate: Variant,
    max_regression: float,
    *,
    protocol: Protocol,
    time_budget_s: float = 60.0,
    inputs: Path | None = None,
    pythons: tuple[str, str] | None = None,
    place: Place = HERE,
    progress: Progress | None = None,
) -> LatencyVerdict:
    """Time two models against each other until it is clear, or until the time is over.

    ``max_regression`` is a fraction: 0.02 lets the candidate take 2 % longer. ``protocol`` gives
    threads, batch, warm-up, clock and seed; its processes and rounds are found here. ``inputs`` is
    a .npz file of the models' inputs, by default they are random. ``pythons`` are the interpreters
    of baseline and candidate where each needs its own, with other packages: the two then run in
    processes of their own that take turns, which spreads more, and widens the bounds by that.
    ``place`` is where both run; a place that is not here takes neither ``inputs`` nor ``pythons``.

    Raises MeasurementError when a model cannot be loaded or run, NoVerdictError when the two take
    different inputs.
    """
    started = time.monotonic()
    pair = {BASELINE: baseline, CANDIDATE: candidate}
    play = partial(_play, as_job(pair, place), place)
    if pythons is not None:
        protocol = replace(protocol, primers=1)
        play = partial(take_turns, pair, dict(zip(pair, pythons, strict=True)))
    trial = play(replace(protocol, rounds=3), 0, inputs)
    protocol = replace(
        protocol, rounds=rounds_for(trial, time_budget_s, time.monotonic() - started)
    )
    answers: list[dict[str, Any]] = []
    log_ratios: list[float] = []
    found = None
    seconds = math.ceil(time_budget_s)
    with (progress or Silent()).task("Comparing latency, seconds at most", seconds) as advance:
        shown = 0
        while found is None:
            answers.append(play(protocol, 1 + len(answers), inputs))
            log_ratios.append(centre(answers[-1], BASELINE, CANDIDATE, protocol.clock).log_ratio)
            spent = time.monotonic() - started
            advance(min(seconds, int(spent)) - shown)
            shown = min(seconds, int(spent))
            last = spent * (1 + 1 / (len(answers) + 1)) > time_budget_s
            found = decide(log_ratios, math.log1p(max_regression), last=last)
    protocol = replace(protocol, processes=len(answers))
    spent = time.monotonic() - started
    return _verdict(found, place.machine(), answers, log_ratios, protocol, max_regression, spent)


def run_process(
    pair: Mapping[str, Variant], protocol: Protocol, number: int, inputs: Path | None
) -> dict[str, Any]:
    """Run one process of a measurement and return its answer, see ``edgekd/bench/worker.py``."""
    return _play(as_job(pair), HERE, protocol, number, inputs)


def _play(
    models: Mapping[str, Any], place: Place, protocol: Protocol, number: int, inputs: Path | None
) -> dict[str, Any]:
    job = {
        "models": models,
        "protocol": protocol.to_dict(),
        "process": number,
        "same_inputs": True,
        "inputs": None if inputs is None else str(inputs),
    }
    return run_worker("edgekd.bench.worker", job, _TIMEOUT_S, place)


def rounds_for(trial: Mapping[str, Any], time_budget_s: float, trial_s: float) -> int:
    """Return how many pairs a process is to time, from what a process with three of them took."""
    pair_ms = sum(float(np.median(times)) for times in trial["samples_ns"].values()) / 1e6
    least, most = _PAIRS
    wanted = max(least, min(most, int(_TIMED_MS / pair_ms)))
    affordable = (time_budget_s / _PROCESSES - trial_s) * 1e3 / pair_ms
    return int(max(_FEWEST_PAIRS, min(wanted, affordable)))


def _verdict(
    found: Decision,
    machine: Mapping[str, Any],
    answers: list[dict[str, Any]],
    log_ratios: list[float],
    protocol: Protocol,
    max_regression: float,
    seconds: float,
) -> LatencyVerdict:
    clocks = {centre(answer, BASELINE, CANDIDATE, protocol.clock).clock for answer in answers}
    return LatencyVerdict(
        verdict=found.verdict,
        limit=math.log1p(max_regression),
        change=found.bounds.centre,
        low=found.bounds.low,
        high=found.bounds.high,
        error=found.error,
        baseline_ms=median_ms(answers, BASELINE),
        candidate_ms=median_ms(answers, CANDIDATE),
        log_ratios=tuple(log_ratios),
        clock=clocks.pop() if len(clocks) == 1 else "mixed",
        seconds=seconds,
        protocol=protocol,
        machine=machine,
        runtime=str(answers[0]["runtime"]),
        note=_note(found.verdict, len(answers), seconds),
        answers=tuple(answers),
    )


def median_ms(answers: Sequence[Mapping[str, Any]], name: str) -> float:
    """Return the median over processes of the median wall time, in milliseconds."""
    return float(np.median([np.median(answer["samples_ns"][name]) for answer in answers])) / 1e6


def _note(verdict: Verdict, processes: int, seconds: float) -> str:
    if verdict != "inconclusive":
        return ""
    if processes < FEWEST:
        needed = math.ceil(seconds / (processes + 1) * (_PROCESSES + 1))
        return (
            f"the time was enough for {processes} processes, and {FEWEST} are the fewest that can "
            f"decide: give it more, such as --time-budget {needed}"
        )
    if processes >= LOOKS[-1]:
        return "the change is too close to the limit to tell the side; set another limit"
    return "the change is too close to the limit for the time; give --time-budget more seconds"
