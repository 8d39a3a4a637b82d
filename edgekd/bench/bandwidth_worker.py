"""One fresh process that measures the memory: ``python -m edgekd.bench.bandwidth_worker``.

The job on stdin is ``{"array_bytes": int, "threads": int, "seconds": float}``; the answer on stdout
is ``{"copy": float, "add": float}``, billions of bytes a second, what is read and what is written
both counted. What goes wrong is one line on stderr and exit code 2.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Slices = tuple[Array, ...]
_LEAST_PASSES = 3


def main() -> int:
    """Read the job, run it, write the answer; return the exit code."""
    job = json.load(sys.stdin)
    try:
        answer = run(job["array_bytes"], job["threads"], job["seconds"])
    except MemoryError:
        sys.stderr.write(f"there is no memory for three arrays of {job['array_bytes']} bytes\n")
        return 2
    sys.stdout.write(json.dumps(answer))
    return 0


def run(array_bytes: int, threads: int, seconds: float) -> dict[str, float]:
    """Return the rates of ``a = b`` and ``a = b + c``, two of STREAM's kernels (McCalpin, 1995).

    Each thread has its own part of the arrays. The best pass counts, as in STREAM: others were
    interrupted. ``seconds`` is how long each kernel is repeated, three passes at least.
    """
    count = array_bytes // 8
    # Written once, so that every page is really there and not the one page of zeros.
    arrays = [np.full(count, float(value)) for value in range(3)]
    parts = [
        tuple(part) for part in zip(*(np.array_split(a, threads) for a in arrays), strict=True)
    ]
    with ThreadPoolExecutor(threads) as pool:
        return {
            "copy": 2 * 8 * count / _best(pool, _copy, parts, seconds) / 1e9,
            "add": 3 * 8 * count / _best(pool, _add, parts, seconds) / 1e9,
        }


def _copy(part: Slices) -> None:
    np.copyto(part[0], part[1])


def _add(part: Slices) -> None:
    np.add(part[1], part[2], out=part[0])


def _best(
    pool: ThreadPoolExecutor,
    kernel: Callable[[Slices], None],
    parts: list[Slices],
    seconds: float,
) -> float:
    """Return the seconds of the fastest pass over all parts; numpy lets threads overlap."""
    times: list[float] = []
    while len(times) < _LEAST_PASSES or sum(times) < seconds:
        start = perf_counter()
        list(pool.map(kernel, parts))
        times.append(perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
