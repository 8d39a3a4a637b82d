"""What can be closed, by hand or at the end of ``with``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from edgekd.errors import BundleError

if TYPE_CHECKING:
    from types import TracebackType

Self = TypeVar("Self", bound="Closing")


class Closing:
    """Makes a context manager of what has ``close``."""

    if TYPE_CHECKING:

        def close(self) -> None:
            """Free what is held; closing twice is fine."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def closed() -> BundleError:
    """Return the error of whoever uses a model after that."""
    return BundleError("this model is closed; load the bundle again")
