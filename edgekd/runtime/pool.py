"""A pool of what only one call can use at a time, such as an execution context of TensorRT."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from edgekd.errors import EdgekdError
from edgekd.runtime.closing import closed

Item = TypeVar("Item")


class Pool(Generic[Item]):
    """Makes items on demand, up to ``limit``; further calls wait for one that is given back.

    ``make`` returns a new item and ``free`` takes one that is no longer needed. Both may be called
    by several threads at once.
    """

    def __init__(self, make: Callable[[], Item], free: Callable[[Item], None], limit: int) -> None:
        self._make, self._free, self.limit = make, free, limit
        self._changed, self._whole = threading.Condition(), threading.Lock()
        self._idle: list[Item] = []
        self._made = 0
        self._closed = False

    @contextlib.contextmanager
    def item(self) -> Iterator[Item]:
        """Have an item for yourself inside ``with``.

        One that an error escaped from is not used again, unless edgekd raised it on purpose.
        Raises BundleError when the pool is closed, also for those who wait at that moment.
        """
        item = self._take()
        sound = False
        try:
            yield item
            sound = True
        except EdgekdError:
            sound = True
            raise
        finally:
            self._give_back(item, sound)

    def use_all(self, use: Callable[[Item], object]) -> None:
        """Make all items that there may be, and use each once; waits for those in use."""
        # Two that each hold some and wait for the rest would wait forever.
        with self._whole, contextlib.ExitStack() as stack:
            for item in [stack.enter_context(self.item()) for _ in range(self.limit)]:
                use(item)

    def close(self) -> None:
        """Free what is idle now and the rest as it is given back; nothing is taken any more."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._made -= len(idle)
            self._changed.notify_all()
        for item in idle:
            self._free(item)

    def _take(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle or self._made < self.limit)
            if self._closed:
                raise closed()
            if self._idle:
                return self._idle.pop()  # the one used last: its memory is the warmest
            self._made += 1
        try:
            return self._make()  # outside the lock: this may take long
        except BaseException:
            with self._changed:
                self._made -= 1
                self._changed.notify()
            raise

    def _give_back(self, item: Item, sound: bool) -> None:
        with self._changed:
            keep = sound and not self._closed
            if keep:
                self._idle.append(item)
            else:
                self._made -= 1
            self._changed.notify()
        if not keep:
            self._free(item)
