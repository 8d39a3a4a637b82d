"""What measuring adds to an inference: python -m benchmarks.harness_overhead MODEL.onnx ...

One process, one ONNX Runtime session a model. Blocks of calls take turns: timed one by one as
``edgekd bench`` and ``edgekd gate`` do (``edgekd/bench/clock.py``), and in a bare loop, where only
the block is timed. What is compared is the mean time of one inference: as the harness reports it,
and as the bare loop gives it. ``whole``: a block's time under the harness, its own work included.
"""

from __future__ import annotations

import argparse
import gc
import random
from time import perf_counter_ns

import numpy as np

from edgekd.bench.clock import time_call
from edgekd.bench.protocol import Protocol
from edgekd.bench.worker import prepare


def main() -> None:
    """Measure each model and print a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--blocks", type=int, default=200, help="of each kind")
    parser.add_argument("--block-ms", type=float, default=30.0)
    options = parser.parse_args()
    print("model                      bare loop   harness adds   (90 % of 1000 resamples)   whole")
    for path in options.models:
        model = {"path": path, "runtime": "onnxruntime", "precision": None}
        call = prepare({"model": model}, Protocol(), 0).calls["model"]
        start = perf_counter_ns()
        call()
        count = max(1, int(options.block_ms * 1e6 / (perf_counter_ns() - start)))
        bare, reported, whole = [], [], []
        order = random.Random(0)
        gc.disable()  # as while measuring
        for _ in range(options.blocks):
            for kind in order.sample(("bare", "harness"), 2):
                start = perf_counter_ns()
                if kind == "bare":
                    for _ in range(count):
                        call()
                    bare.append((perf_counter_ns() - start) / count)
                    continue
                times = [time_call(call) for _ in range(count)]
                whole.append((perf_counter_ns() - start) / count)
                reported.append(sum(time.wall_ns for time in times) / count)
        adds = np.log(reported) - np.log(bare)
        rng = np.random.default_rng(0)
        medians = np.median(rng.choice(adds, (1000, len(adds))), axis=1)
        low, high = np.percentile(medians, [5, 95])
        extra = np.median(np.log(whole) - np.log(bare))
        print(
            f"{path[-25:]:25}  {np.median(bare) / 1e6:6.3f} ms   {np.median(adds):+10.2%}   "
            f"({low:+.2%} to {high:+.2%})   {extra:+.2%}"
        )


if __name__ == "__main__":
    main()
