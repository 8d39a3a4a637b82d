"""The way of samples through segments: the part of a cascade that runs in every call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd.errors import BundleError, DataError
from edgekd.runtime.cascade_manifest import CascadeManifest

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgekd.runtime.opening import Session

CONFIDENCE = "confidence"


class Step:
    """One segment with its part of a call laid out beforehand."""

    __slots__ = ("inputs", "link", "names", "run", "seconds", "threshold")

    def __init__(
        self,
        session: Session,
        names: list[str],
        link: str,
        threshold: float | None,
        seconds: float | None,
    ) -> None:
        self.run = session.run
        self.names = names  # of the outputs to fetch
        self.link = link  # what it receives; nothing is called '', as the first one's is
        self.inputs = tuple(t.name for t in session.inputs if t.name != link)
        # Confidences are float32, and so is what they are compared with: in batches and alone.
        self.threshold = np.inf if threshold is None else float(np.float32(threshold))
        self.seconds = seconds  # 99th percentile of one sample


def make_steps(
    sessions: Sequence[Session], cascade: CascadeManifest, point: str, own: str
) -> tuple[Step, ...]:
    """Return the steps of a cascade at an operating point; ``own`` is the model's output."""
    links = [entry.link.name if entry.link else "" for entry in cascade.segments]
    names = [
        [exit.name, CONFIDENCE, link]
        for exit, link in zip(cascade.exits, links[1:])  # noqa: B905 - strict= needs Python 3.10
    ]
    seconds = [e.latency.p99 / 1e3 if e.latency else None for e in cascade.segments]
    thresholds = (*cascade.operating_points[point], None)
    return tuple(map(Step, sessions, [*names, [own]], links, thresholds, seconds))


def run_one(steps: Sequence[Step], feed: Mapping[str, Any]) -> tuple[Any, int]:
    """Return output and exit of a batch of 1: all that is done here costs time in every call."""
    index, last = 0, len(steps) - 1
    step = steps[0]
    given = {name: feed[name] for name in step.inputs}
    while index < last:
        logits, confidence, link = step.run(step.names, given)
        if confidence.item() > step.threshold:
            return logits, index
        index += 1
        step = steps[index]
        given = {name: feed[name] for name in step.inputs}
        given[step.link] = link
    return step.run(step.names, given)[0], index


def run_all(steps: Sequence[Step], feed: Mapping[str, Any]) -> None:
    """Run every segment, whatever the thresholds say."""
    passed: dict[str, Any] = {}
    for step in steps:
        outputs = step.run(step.names, {**{name: feed[name] for name in step.inputs}, **passed})
        following = step.names[-1]  # of the last segment it is the model's output: nobody reads it
        passed = {following: outputs[-1]}


def run_batch(
    steps: Sequence[Step], feed: Mapping[str, Any], count: int, until: float | None
) -> tuple[Any, npt.NDArray[np.int64]]:
    """Return output and exits of ``count`` samples; ``until`` is the clock's time to be done by."""
    last = len(steps) - 1
    answers = _Answers(count, last)
    given = {name: feed[name] for name in steps[0].inputs}
    for index, step in enumerate(steps[:-1]):
        logits, confidence, link = step.run(step.names, given)
        if not count:  # the runtimes do not agree on the shape of an empty confidence
            return logits, answers.exits
        following = steps[index + 1]
        done = confidence > np.float32(step.threshold)
        left = int(done.size - np.count_nonzero(done))
        if until is not None and time.perf_counter() + left * (following.seconds or 0.0) > until:
            done[:] = True
        if done.any():
            answers.take(done, logits, index)
            stay = np.flatnonzero(~done)
            link, feed = link[stay], {name: array[stay] for name, array in feed.items()}
        if not answers.rows.size:
            return answers.outputs, answers.exits
        given = {name: feed[name] for name in following.inputs}
        given[following.link] = link
    (outputs,) = steps[last].run(steps[last].names, given)
    answers.take(np.ones(len(outputs), bool), outputs, last)
    return answers.outputs, answers.exits


class _Answers:
    """Collects the answers of a batch; ``rows`` are the samples that have none yet."""

    def __init__(self, count: int, last: int) -> None:
        self.rows = np.arange(count)
        self.exits = np.full(count, last, np.int64)
        self.outputs: npt.NDArray[Any] = np.empty(0, np.float32)

    def take(self, done: npt.NDArray[np.bool_], answers: npt.NDArray[Any], index: int) -> None:
        """Take the answers of those of ``rows`` that are ``done`` at the exit ``index``."""
        if not self.outputs.size:
            self.outputs = np.empty((len(self.exits), *answers.shape[1:]), answers.dtype)
        rows = self.rows[done]
        self.outputs[rows], self.exits[rows] = answers[done], index
        self.rows = self.rows[~done]


def time_limit(started: float, deadline_ms: float, steps: Sequence[Step]) -> float:
    """Return the clock's time at which a call that ``started`` has to be done.

    Raises DataError for a deadline that is no time, BundleError where segments have no times.
    """
    if not deadline_ms >= 0:
        raise DataError(f"deadline_ms must be 0 or more, not {deadline_ms}")
    if any(step.seconds is None for step in steps[1:]):
        raise BundleError(
            "the bundle has no times of its segments, which a deadline needs: compress on the "
            "machine that runs it, or leave deadline_ms out"
        )
    return started + deadline_ms / 1e3
