"""The pool: nobody shares, no more than the limit, and closing while others run and wait."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from edgekd.errors import BundleError, DataError
from edgekd.runtime.pool import Pool


class Counted:
    """Numbers as items, with what was made and freed."""

    def __init__(self, limit: int) -> None:
        self.numbers = itertools.count()
        self.made: list[int] = []
        self.freed: list[int] = []
        self.pool: Pool[int] = Pool(self.make, self.freed.append, limit)

    def make(self) -> int:
        number = next(self.numbers)
        self.made.append(number)
        return number


def run(*works: object) -> None:
    threads = [threading.Thread(target=work) for work in works]  # type: ignore[arg-type]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_nobody_shares_and_no_more_are_made_than_the_limit() -> None:
    counted, using, shared, most = Counted(3), set(), [], [0]
    lock = threading.Lock()

    def work() -> None:
        for _ in range(200):
            with counted.pool.item() as item:
                with lock:
                    shared.extend(using & {item})
                    using.add(item)
                    most[0] = max(most[0], len(using))
                time.sleep(0)
                with lock:
                    using.remove(item)

    run(*[work] * 8)
    assert not shared and most[0] <= 3
    assert len(counted.made) <= 3 and not counted.freed
    counted.pool.close()
    assert sorted(counted.freed) == counted.made


def test_only_as_many_are_made_as_are_used_at_once() -> None:
    counted = Counted(8)
    for _ in range(5):
        with counted.pool.item():
            pass
    assert counted.made == [0]


def test_all_are_made_and_used_ahead_of_time() -> None:
    counted, used = Counted(4), []
    counted.pool.use_all(used.append)
    assert sorted(used) == counted.made == [0, 1, 2, 3]
    run(*[lambda: counted.pool.use_all(used.append)] * 4)  # which may not wait for each other
    assert len(used) == 20 and len(counted.made) == 4


def test_closing_frees_what_runs_when_it_is_done() -> None:
    counted = Counted(2)
    inside, go_on = threading.Event(), threading.Event()
    answers: list[str] = []

    def running() -> None:
        with counted.pool.item():
            inside.set()
            assert go_on.wait(30)
            answers.append("done")

    def closing() -> None:
        with counted.pool.item():
            assert inside.wait(30)
        counted.pool.close()
        counted.pool.close()
        assert counted.freed and len(counted.freed) < len(counted.made)
        with pytest.raises(BundleError, match="closed"), counted.pool.item():
            pass
        go_on.set()

    run(running, closing)
    assert answers == ["done"]
    assert sorted(counted.freed) == counted.made


def test_those_who_wait_are_told_that_it_is_closed() -> None:
    counted, told = Counted(1), []

    def waiting() -> None:
        try:
            with counted.pool.item():
                told.append("ran")
        except BundleError as error:
            told.append(str(error))

    with counted.pool.item():
        threads = [threading.Thread(target=waiting) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        counted.pool.close()
        for thread in threads:
            thread.join(30)
    assert told == ["this model is closed; load the bundle again"] * 3
    assert counted.freed == [0]


def test_what_an_error_escaped_from_is_not_used_again() -> None:
    counted = Counted(1)
    with pytest.raises(RuntimeError), counted.pool.item():
        raise RuntimeError("an illegal address")
    assert counted.freed == [0]
    with pytest.raises(DataError), counted.pool.item():
        raise DataError("an input that does not fit")
    with counted.pool.item() as item:
        assert item == 1  # the second one, which the caller's mistake did not harm


def test_one_that_cannot_be_made_leaves_room_for_the_next() -> None:
    works = iter([RuntimeError("the memory is full"), None])

    def make() -> int:
        if (error := next(works)) is not None:
            raise error
        return 5

    pool: Pool[int] = Pool(make, lambda item: None, 1)
    with pytest.raises(RuntimeError, match="memory is full"), pool.item():
        pass
    with pool.item() as item:
        assert item == 5
