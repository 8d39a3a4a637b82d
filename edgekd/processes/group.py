"""Which of torchrun's processes this is, and how one of them decides for all.

All processes of a run take the same way through the same code, so that they meet in every training.
Whatever is measured, read from disk or written is done by the first alone, in ``by_first``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from edgekd.errors import StageError

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

Result = TypeVar("Result")
_SAID = "edgekd/said"  # in the store that torchrun keeps for its processes
_alone = False  # while the first process works for all


def count() -> int:
    """Return how many processes torchrun started for this run; 1 without it."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_first() -> bool:
    """Tell whether this process decides, prints and writes."""
    return rank() == 0


def together() -> bool:
    """Tell whether several processes are at work, and this one is not on its own for now."""
    return count() > 1 and not _alone


def connect() -> None:
    """Connect this process with the others and give it its GPU, if there are any.

    Raises StageError where a machine has fewer GPUs than processes.
    """
    if count() > 1:
        _fabric()


def by_first(work: Callable[[], Result]) -> Result:
    """Let the first process do ``work`` while the others wait, and return the result to all.

    What it raises, all raise. The result must be something that pickle can carry. Inside ``work``
    the first process is on its own: another ``by_first`` there is a plain call. torch's random
    numbers go on everywhere from where ``work`` left them.
    """
    if not together():
        return work()
    fabric = _fabric()
    fabric.barrier()
    value: Result | None = None
    error: Exception | None = None
    if is_first():
        with _on_its_own():
            try:
                value = work()
            except Exception as caught:
                error = caught
    portable = None if error is None else _portable(error)
    value, raised, numbers = fabric.broadcast((value, portable, _random_state()))
    if error is not None:
        raise error
    _go_on_from(numbers)
    if raised is not None:
        raise raised
    return value  # type: ignore[return-value]  # what work returned may be None itself


def say_first(line: str) -> bool:
    """Tell whether this process is to print why the run ends.

    All processes mostly end for the same reason, and then the first one says it. Another one speaks
    only if the first has nothing to say within some seconds.
    """
    if count() == 1:
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        # The store of torchrun itself, which outlives its processes.
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))
        if is_first():
            store.set(_SAID, line)
            return True
        store.wait([_SAID], timedelta(seconds=5))
    except Exception:  # without the store, every process speaks for itself
        return True
    return False


def is_lost(error: BaseException) -> bool:
    """Tell whether ``error`` says that another process is not there any more."""
    if count() == 1:
        return False
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error)


@functools.cache
def _fabric() -> Fabric:
    import torch

    from edgekd.processes.fabric import open_fabric

    local = int(os.environ["LOCAL_WORLD_SIZE"])
    gpus = torch.cuda.device_count()
    if 0 < gpus < local:
        raise StageError(
            f"torchrun started {local} processes on a machine where torch sees {gpus} GPUs; give "
            f"--nproc-per-node {gpus}, or hide the GPUs with CUDA_VISIBLE_DEVICES="
        )
    return open_fabric("cuda" if gpus else "cpu")


@contextlib.contextmanager
def _on_its_own() -> Iterator[None]:
    global _alone  # noqa: PLW0603  # a process is on its own or not, whoever asks
    _alone = True
    try:
        yield
    finally:
        _alone = False


def _random_state() -> list[Tensor]:
    import torch

    on_gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return [torch.get_rng_state(), *on_gpu]


def _go_on_from(numbers: list[Tensor]) -> None:
    import torch

    torch.set_rng_state(numbers[0])
    for state in numbers[1:]:
        torch.cuda.set_rng_state(state)


def _portable(error: Exception) -> Exception:
    """Return the error, or one that says the same if pickle cannot carry it."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(str(error))
    return copy if isinstance(copy, Exception) else RuntimeError(str(error))
