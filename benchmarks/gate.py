"""How often the gate is wrong, beside the rules in use today: python -m benchmarks.gate MODEL ...

Each ONNX model is compared with itself and with copies that do 1, 3 and 5 % more work (extra
matrix products in the model, ``benchmarks/slow_copy.py``), in the processes that ``edgekd gate``
would run, the four in turns. Then gates are drawn from these processes: each a random order of
them without repetition, decided as a real gate decides, within the processes that 60 s are enough
for. 200 gates of the model with itself, 200 for each copy. ``--load N`` runs N busy processes
meanwhile.

The rules of today see the wall times of the same processes, as runs at different times: the stored
run and the new run are different processes. "mean x 1.1": one run's mean against a stored one's.
"median 5 %": pytest-benchmark with --benchmark-compare-fail=median:5%. "asv": its two processes a
side, Mann-Whitney p < 0.002 and a ratio of medians above 1.1; also with a factor of 1.02.
"stored" is ``edgekd gate --stored``: 12 processes now against 12 earlier ones. ``--read`` prints
the tables of series that were written with ``--out``, and for the same model under two loads what
the rules say when only the load has changed since the numbers were stored.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks.slow_copy import slower_copies
from edgekd.bench.pairs import centre, process_centre
from edgekd.bench.rank_sum import shift_bounds
from edgekd.bench.runner import Variant
from edgekd.gate.decision import ERROR
from edgekd.gate.latency import BASELINE, CANDIDATE, rounds_for, run_process
from edgekd.gate.run import PROTOCOL
from edgekd.gate.self_test import draw

EFFECTS = (0.0, 0.01, 0.03, 0.05)
LIMIT = math.log1p(0.02)
BUDGET_S = 60.0
GATES = 200

Answers = list[dict[str, Any]]
Series = dict[str, Any]


def main() -> None:
    """Measure or read the series, then print the tables."""
    options = arguments()
    if options.read:
        series = [row for path in options.read for row in json.loads(path.read_text())]
    else:
        series = []
        with busy(options.load):
            for model in options.models:
                series.append(measure(Path(model), options))
                if options.out:
                    options.out.write_text(json.dumps(series))
    for row in series:
        print_tables(row)
    for stored in series:
        for new in series:
            if stored["model"] == new["model"] and stored["load"] != new["load"]:
                print_across(stored, new)


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--load", type=int, default=0, help="busy processes")
    parser.add_argument("--processes", type=int, default=60, help="of the model with itself")
    parser.add_argument("--slow-processes", type=int, default=30, help="of each copy")
    parser.add_argument("--out", type=Path, help="write the measured series as JSON")
    parser.add_argument("--read", type=Path, nargs="+", help="print tables of written series")
    return parser.parse_args()


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Run ``count`` processes that do nothing but use a core."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measure(model: Path, options: argparse.Namespace) -> Series:
    """Return the answers of all processes, by how much slower the copy is."""
    started = time.monotonic()
    same = {BASELINE: Variant(model), CANDIDATE: Variant(model)}
    trial = run_process(same, replace(PROTOCOL, rounds=3), 0, None)
    protocol = replace(PROTOCOL, rounds=rounds_for(trial, BUDGET_S, time.monotonic() - started))
    answers: dict[float, Answers] = {effect: [] for effect in EFFECTS}
    with tempfile.TemporaryDirectory() as folder:
        copies = {0.0: model, **slower_copies(model, Path(folder), EFFECTS[1:], protocol)}
        begun, number = time.monotonic(), 0
        while any(len(rows) < wanted(effect, options) for effect, rows in answers.items()):
            for effect, rows in answers.items():
                if len(rows) < wanted(effect, options):
                    pair = {BASELINE: Variant(model), CANDIDATE: Variant(copies[effect])}
                    rows.append(run_process(pair, protocol, len(rows), None))
                    number += 1
    return {
        "model": model.name,
        "load": options.load,
        "rounds": protocol.rounds,
        "process_s": (time.monotonic() - begun) / number,
        "answers": {str(effect): rows for effect, rows in answers.items()},
    }


def wanted(effect: float, options: argparse.Namespace) -> int:
    """Return how many processes of a series are to be measured."""
    return int(options.slow_processes if effect else options.processes)


def print_tables(series: Series) -> None:
    """Print the gate's rates and those of today's rules."""
    answers = {float(effect): rows for effect, rows in series["answers"].items()}
    most = max(1, int(BUDGET_S / series["process_s"]) - 1)
    same = answers[0.0]
    middle = statistics.median(statistics.median(a["samples_ns"][BASELINE]) for a in same) / 1e6
    print(
        f"\n{series['model']}, {middle:.2f} ms, {series['load']} busy processes; "
        f"{series['rounds']} pairs and {series['process_s']:.2f} s a process, at most {most} a gate"
    )
    print(
        "  copy  measured  spread (wall)   | regression   pass  no verdict  processes "
        "| alarms of today's rules"
    )
    for effect, rows in answers.items():
        print_effect(effect, rows, same, most)


def print_effect(effect: float, rows: Answers, same: Answers, most: int) -> None:
    """Print one line: how gates of the same or a slower copy end, and what other rules say."""
    ratios = [centre(row, BASELINE, CANDIDATE, "running").log_ratio for row in rows]
    walls = [centre(row, BASELINE, CANDIDATE, "wall").log_ratio for row in rows]
    rng = random.Random(0)
    ends = [draw(ratios, LIMIT, most, rng) for _ in range(GATES)]
    share = {name: sum(end == name for end, _ in ends) / GATES for name in ("regression", "pass")}
    share["pass"] += sum(end == "improvement" for end, _ in ends) / GATES
    none = 1 - sum(share.values())
    taken = statistics.mean(count for _, count in ends)
    others = "  ".join(
        f"{name} {alarm_rate(rule, count, same, rows, rng):.1%}"
        for name, (rule, count) in RULES.items()
    )
    print(
        f"  +{100 * effect:.0f} %  {100 * math.expm1(statistics.median(ratios)):+7.2f} %"
        f"  {100 * statistics.stdev(ratios):.2f} ({100 * statistics.stdev(walls):.2f}) %"
        f"  | {share['regression']:9.1%} {share['pass']:7.1%} {none:10.1%} {taken:10.1f} | {others}"
    )


def print_across(stored: Series, new: Series) -> None:
    """Print how often the rules call the same model slower when only the machine's load changed."""
    before, after = (series["answers"]["0.0"] for series in (stored, new))
    rng = random.Random(0)
    alarms = "  ".join(
        f"{name} {alarm_rate(rule, count, before, after, rng):.1%}"
        for name, (rule, count) in RULES.items()
    )
    loads = f"stored beside {stored['load']} busy processes, run beside {new['load']}"
    print(f"\n{new['model']}, the same model, {loads}: {alarms}")


Rule = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]], bool]


def alarm_rate(
    rule: Rule, count: int, same: Answers, rows: Answers, rng: random.Random, runs: int = GATES
) -> float:
    """Return how often a rule calls new runs slower than stored ones, of other processes."""
    alarms = 0
    for _ in range(runs):
        stored = rng.sample(range(len(same)), count)
        # a new run comes later, and no process is both stored and new
        fresh = [i for i in range(len(rows)) if rows is not same or i not in stored]
        new = rng.sample(fresh, count)
        alarms += rule([same[i] for i in stored], [rows[i] for i in new])
    return alarms / runs


def wall(rows: Sequence[Mapping[str, Any]], voice: str) -> list[float]:
    """Return all wall times of one of the two models, in nanoseconds."""
    return [ns for row in rows for ns in row["samples_ns"][voice]]


def mean_rule(stored: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether the mean of a run is above a stored mean x 1.1."""
    return float(np.mean(wall(new, CANDIDATE))) > 1.1 * float(np.mean(wall(stored, BASELINE)))


def median_rule(stored: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> bool:
    """pytest-benchmark, --benchmark-compare-fail=median:5%."""
    before, after = np.median(wall(stored, BASELINE)), np.median(wall(new, CANDIDATE))
    return bool(after > 1.05 * before)


def asv_rule(factor: float) -> Rule:
    """Return asv's: different by Mann-Whitney at 0.002, and a ratio of medians above the factor."""

    def rule(stored: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> bool:
        before, after = wall(stored, BASELINE), wall(new, CANDIDATE)
        different = mannwhitneyu(before, after).pvalue < 0.002
        return bool(different and np.median(after) > factor * np.median(before))

    return rule


def stored_rule(stored: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> bool:
    """``edgekd gate --stored``."""
    before = [process_centre(row, BASELINE, "running") for row in stored]
    after = [process_centre(row, CANDIDATE, "running") for row in new]
    return shift_bounds(before, after, ERROR).low > LIMIT


RULES: dict[str, tuple[Rule, int]] = {
    "mean x 1.1": (mean_rule, 1),
    "median 5 %": (median_rule, 1),
    "asv 1.1": (asv_rule(1.1), 2),
    "asv 1.02": (asv_rule(1.02), 2),
    "stored": (stored_rule, 12),
}


if __name__ == "__main__":
    main()
