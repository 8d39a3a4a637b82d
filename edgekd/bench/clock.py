"""What a call costs: the time on the wall, and the part of it in which the model really ran.

On a busy machine the system takes the core away in the middle of a call and gives it to somebody
else. That wait is in the wall time and says nothing about the model. A thread that never gave up
its core by itself (no voluntary context switch, see getrusage(2)) ran for exactly its CPU time, and
the rest was taken from it. So the time of such a call is its CPU time; a call that did wait, for
its own worker threads, a lock or a disk, keeps its wall time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import NamedTuple

if sys.platform == "linux":
    import resource

CAN_TELL = sys.platform == "linux"
"""Whether this system tells how often a thread gave up its core; else there is wall time only."""


class CallTime(NamedTuple):
    """One call: ``wall_ns`` by the monotonic clock, ``cpu_ns`` of its thread, its ``waits``."""

    wall_ns: int
    cpu_ns: int
    waits: int


def time_call(call: Callable[[], object]) -> CallTime:
    """Call once. What it returns is freed outside the timing."""
    waits, cpu = _waits(), time.thread_time_ns()
    start = time.perf_counter_ns()
    result = call()
    stop = time.perf_counter_ns()
    spent, waited = time.thread_time_ns() - cpu, _waits() - waits
    del result
    return CallTime(stop - start, spent, waited)


def running_ns(call: CallTime) -> int:
    """Return the nanoseconds in which the call ran, or all of them if that cannot be told."""
    return call.cpu_ns if CAN_TELL and call.waits == 0 else call.wall_ns


def _waits() -> int:
    """Return how often the calling thread gave up its core by itself."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw if CAN_TELL else 0
