"""Running time is CPU time, but only of calls that never waited."""

from __future__ import annotations

import time

import pytest

from edgekd.bench.clock import CAN_TELL, CallTime, running_ns, time_call

LINUX = pytest.mark.skipif(not CAN_TELL, reason="this system does not count waits")


def work() -> int:
    return sum(range(20_000))


@LINUX
def test_a_call_that_works_ran_for_its_cpu_time() -> None:
    calls = [time_call(work) for _ in range(20)]
    quiet = [call for call in calls if call.waits == 0]
    assert quiet
    assert all(0 < running_ns(call) == call.cpu_ns for call in quiet)


@LINUX
def test_a_call_that_waits_keeps_its_wall_time() -> None:
    call = time_call(lambda: time.sleep(0.01))
    assert call.waits >= 1
    assert running_ns(call) == call.wall_ns >= 10_000_000
    assert call.cpu_ns < call.wall_ns


def test_waits_decide() -> None:
    assert running_ns(CallTime(10, 7, 1)) == 10
    assert running_ns(CallTime(10, 7, 0)) == (7 if CAN_TELL else 10)
